"""Decodes uploaded bytes into upright RGB pixels, and rejects broken or too large files.

Does not know about HTTP, models or stores. Has no state, so any number of threads may decode concurrently.
"""

import ctypes
import logging
import re
import warnings
from collections.abc import Callable
from contextlib import suppress

from PIL import Image, UnidentifiedImageError, _imaging

from app.codecs import bmp, containers, jpeg, png, tiff
from app.codecs.deep import Stretch
from app.codecs.tiff_tags import SIGNATURES
from app.codecs.upright import Pixels
from app.errors import InvalidImage, ServiceError

__all__ = ["Pixels", "claimed_pixels", "decode_image"]

# Pillow's limit is global; each reader checks its own before anything is allocated.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns and logs about the metadata of uploaded files; the reply says what matters. Once for the process,
# because warnings.catch_warnings() in one thread undoes that of another.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# libtiff would write to the process's stderr, between the lines of the log: of a fax one line for each bad row.
with suppress(AttributeError, OSError):  # where it is linked into Pillow, as on Windows, it cannot be told
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)
Image.init()
with suppress(ImportError):  # the extra 'heif'
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
    pillow_heif.options.DECODE_THREADS = 1  # the workers are threads already

_READERS: tuple[tuple[str, re.Pattern[bytes], Callable[..., Pixels]], ...] = tuple(
    (name, re.compile(signature, re.DOTALL), decode)
    for name, signature, decode in (
        ("JPEG", re.escape(jpeg.SIGNATURE), jpeg.decode),
        ("PNG", re.escape(png.SIGNATURE), png.decode),
        ("WEBP", rb"RIFF.{4}WEBP", containers.decode_webp),
        ("GIF", rb"GIF8[79]a", containers.decode_gif),
        ("TIFF", b"|".join(map(re.escape, SIGNATURES)), tiff.decode),
        ("BMP", rb"BM", bmp.decode),
        ("AVIF", rb".{4}ftyp(avi[fs]|m[is]f1.{4}(.{4}){0,16}?avi[fs])", containers.decode_avif),
        ("HEIF", rb".{4}ftyp(he[iv][a-z]|m[is]f1)", containers.decode_heif),
    )
    if name in Image.OPEN  # Pillow can be built without some, and plugins registered before this import count
)
_DEEP = ("PNG", "TIFF")
_NAMES = [name for name, _, _ in _READERS]
_WANTED = f"Send a {', '.join(_NAMES[:-1])} or {_NAMES[-1]} picture."

_HEIC = re.compile(rb".{4}ftyp(hei|hev|mif1|msf1)", re.DOTALL)
_LOOKS_LIKE = tuple(
    (re.compile(rb"[\s\xef\xbb\xbf]*" + pattern, re.IGNORECASE | re.DOTALL), what)
    for pattern, what in (
        (rb"<svg|<\?xml.*<svg", "an SVG drawing"),
        (rb"<(!doctype html|!--|html|head|body)", "an HTML page"),
        (rb"<\?xml", "an XML document"),
        (rb"%pdf-", "a PDF document"),
        (rb"[{\[]", "JSON"),
        (rb"data:", "a data URL"),
        (rb"/9j/|iVBORw0KGgo|R0lGOD|UklGR", "a picture in base64"),
        (rb"PK\x03\x04", "a ZIP archive"),
    )
)
_OTHER_KIND = re.compile(r"unsupported (jpeg|color|bmp)", re.IGNORECASE)
"""Decoders of whole pictures that they do not know: JPEG of 12 bits or lossless, as of medical devices."""
_VIDEO = re.compile(rb".{4}ftyp(isom|mp4|qt|M4V|iso\d|avc1)|\x1aE\xdf\xa3", re.DOTALL)


def decode_image(data: bytes, *, max_pixels: int, stretch: Stretch = "range") -> Pixels:
    """Decode the first picture in `data` as a person sees it: (height, width, 3), RGB, 0..255, contiguous.

    It is turned as browsers turn it. Alpha is laid over white. Samples of more than 8 bits, signed ones and floats
    are scaled as `stretch` says (deep.eight_bits). Colour profiles are not applied.

    Raises ImageTooLarge if the header claims more than `max_pixels` or a side over 65,535, before any pixel is
    decoded. Raises InvalidImage for everything else that is not a whole picture in a supported format.
    """
    if not data:
        raise InvalidImage(f"The body is empty. {_WANTED}")
    for name, signature, decode in _READERS:
        if signature.match(data):
            try:
                return decode(data, max_pixels=max_pixels, **({"stretch": stretch} if name in _DEEP else {}))
            except ServiceError:
                raise
            except Exception as error:  # decoders raise any exception for broken files
                raise InvalidImage(_explain(error)) from error
    if _HEIC.match(data):
        raise InvalidImage(
            "This is a HEIC picture, which this server cannot read yet: install pillow-heif there (pip install "
            "'.[heif]'), or send a JPEG."
        )
    if _VIDEO.match(data):
        raise InvalidImage(f"The body looks like a video: POST it to /videos. {_WANTED}")
    for pattern, what in _LOOKS_LIKE:
        if pattern.match(data[:1024]):
            raise InvalidImage(f"The body looks like {what}, which is not supported. {_WANTED}")
    raise InvalidImage(f"The body is not a picture in a supported format. {_WANTED}")


def claimed_pixels(data: bytes) -> int | None:
    """Return width times height as the head of a PNG or JPEG claims them; None if it does not, and for others."""
    if data.startswith(png.SIGNATURE) and data[12:16] == b"IHDR":
        return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    return jpeg.claimed_pixels(data) if data.startswith(jpeg.SIGNATURE) else None


def _explain(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "The header of this picture is broken, empty, or of an unusual kind. Save it again."
    # deliberate errors of decoders are worth reading; the others only show where a parser failed
    reason = f" ({error})" if isinstance(error, (OSError, ValueError)) else ""
    if _OTHER_KIND.search(reason):
        return f"The picture is of an unusual kind{reason}. Save it again, as a plain JPEG or PNG."
    return f"The picture is broken or cut off{reason}. Send the whole file."
