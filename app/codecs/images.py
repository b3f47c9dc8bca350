"""Decodes uploaded bytes into upright RGB pixels, and rejects broken or too large files.

Does not know about HTTP, models or stores. Has no state, so any number of threads may decode concurrently.
"""

import io
import logging
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from app.codecs.prices import check_price, jpeg_segments
from app.errors import ImageTooLarge, InvalidImage, ServiceError

Pixels: TypeAlias = npt.NDArray[np.uint8]

# Pillow's limit is global; decode_image checks its own before anything is allocated.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns and logs about the metadata of uploaded files; the reply says what matters. Once for the process,
# because warnings.catch_warnings() in one thread undoes that of another.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

Image.init()
# Pillow reads many more formats, some by running other programs. Plugins registered before this import count.
_FORMATS = tuple(
    name for name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF") if name in Image.OPEN
)
_WANTED = f"Send a {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} picture."

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
        (rb".{4}ftyp(hei|hev|mif1|msf1)", "a HEIC picture"),
        (rb".{4}ftyp(isom|mp4|qt)", "a video"),
    )
)

_DEEP_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_MAX_SIDE_PX = 65_535  # as in JPEG; the time to make a mask grows with its sides, not with its pixels
_BLOCK_PIXELS = 2**18  # 1 MiB of Pillow's four bytes a pixel stays in the cache between two passes
_MAX_JPEG_SCANS = 100  # encoders write about ten; without a limit, 64 MiB can hold hours of work
_MAX_RLE_BMP_PIXELS = 4_000_000  # Pillow decodes these in Python: 40 kB with 100 megapixels take 10 s

# EXIF orientation -> whether the upright picture has (rows reversed, columns reversed, rows as columns)
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (False, True, True),
    7: (True, True, True),
    8: (True, False, True),
}


def decode_image(data: bytes, *, max_pixels: int) -> Pixels:
    """Decode the first picture in `data` as a person sees it: (height, width, 3), RGB, 0..255, contiguous.

    EXIF orientation is applied; a broken EXIF block is ignored. Alpha is laid over white. Grey of more than 8
    bits is scaled so that its smallest finite value becomes 0 and its largest 255. A constant picture becomes
    black, and so do not-a-numbers. Colour profiles are not applied.

    Raises ImageTooLarge if the header claims more than `max_pixels` or a side over 65,535, before any pixel is
    decoded. Raises InvalidImage for everything else that is not a whole picture in a supported format.
    """
    if not data:
        raise InvalidImage(f"The body is empty. {_WANTED}")
    try:
        return _decode(data, max_pixels)
    except ServiceError:
        raise
    except Exception as error:  # Pillow's plugins raise any exception for broken files
        raise InvalidImage(_explain(data, error)) from error


def _decode(data: bytes, max_pixels: int) -> Pixels:
    check_price(data)
    exif: object = None
    if data.startswith(b"\xff\xd8\xff"):
        data, exif = _bare_jpeg(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        data = _bare_gif(data)
    elif data.startswith(b"RIFF"):
        # libwebp allocates the canvas when the file is opened
        _check_size(_webp_size(data), max_pixels)
    elif data[4:8] == b"ftyp":
        # libavif has its own limit; the size of each picture and tile is in its own box
        for extent in re.findall(rb"ispe\0{4}(.{8})", data, re.DOTALL):
            _check_size(struct.unpack(">II", extent), max_pixels)
        # a broken EXIF item makes Pillow reject the picture; the container's orientation is the one that counts
        data = re.sub(rb"(infe\x02.{7})Exif", rb"\1skip", data, flags=re.DOTALL)

    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        _check_size(image.size, max_pixels)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # libtiff allocates a whole tile, which may be larger than the picture
            tile_size = image.tag_v2.get(322, 1), image.tag_v2.get(323, 1)
            _check_size(tile_size, max_pixels, what="tile of this TIFF")
        run_length_coded = image.format == "BMP" and image.info["compression"] in (1, 2)
        if run_length_coded and image.width * image.height > _MAX_RLE_BMP_PIXELS:
            raise ImageTooLarge(
                f"The picture is a run-length coded BMP of {image.width} x {image.height}; "
                f"the limit for these is {_MAX_RLE_BMP_PIXELS / 1e6:g} megapixels. Send it as PNG."
            )
        image.load()  # also turns a TIFF upright
        return _upright_rgb(image, _orientation(exif or image.info.get("exif")))


def _check_size(size: tuple[int, int], max_pixels: int, *, what: str = "picture") -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The {what} is {width} x {height} = {width * height / 1e6:g} megapixels; "
            f"the limit is {max_pixels / 1e6:g} (SAM2_MAX_IMAGE_MEGAPIXELS). Send a smaller picture."
        )
    if max(size) > _MAX_SIDE_PX:
        raise ImageTooLarge(
            f"The {what} is {width} x {height}; the limit for a side is {_MAX_SIDE_PX}. Send a smaller picture."
        )


def _explain(data: bytes, error: Exception) -> str:
    for pattern, what in _LOOKS_LIKE:
        if pattern.match(data[:1024]):
            return f"The body looks like {what}, which is not supported. {_WANTED}"
    if not isinstance(error, UnidentifiedImageError):
        # Pillow's deliberate errors are worth reading; the others only show where its parser failed
        reason = f" ({error})" if isinstance(error, (OSError, ValueError)) else ""
        return f"The picture is broken or cut off{reason}. Send the whole file."
    for name in _FORMATS:
        accepts = Image.OPEN[name][1]
        if accepts and accepts(data[:16]):
            return (
                f"The header of this {name} picture is broken, empty, or of an unusual kind. Save it again."
            )
    return f"The body is not a picture in a supported format. {_WANTED}"


# What Pillow gets: no metadata, because its many parsers can reject a picture that is whole.


def _bare_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """Return the file without metadata, and its EXIF block.

    Metadata are EXIF, profiles, comments and the index of further pictures (MPO).
    """
    kept = [data[:2]]
    exif = b""
    at = 2
    for marker, start, end in jpeg_segments(data):
        if not exif and marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0":
            exif = data[start + 10 : end]
        # Drop application segments and comments, except the two that define the colour space: JFIF's and Adobe's.
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[start:end])
        at = end
    bare = b"".join([*kept, data[at:]])
    if bare.count(b"\xff\xda") > _MAX_JPEG_SCANS:
        raise InvalidImage(f"The JPEG has more than {_MAX_JPEG_SCANS} scans. Save it as a baseline JPEG.")
    return bare, exif


def _bare_gif(data: bytes) -> bytes:
    """Return the file from its first frame on, without the frame's disposal, for which Pillow would allocate."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    header = data[:at]
    control = b""
    while data[at] != 0x2C:  # image descriptor
        if data[at] == 0x3B:
            raise InvalidImage(f"The GIF has no frames. {_WANTED}")
        if data[at] == 0x21:  # extension: a label, then blocks until an empty one
            if data[at + 1 : at + 3] == b"\xf9\x04" and data[at + 3] & 1:
                control = b"\x21\xf9\x04\x01\0\0" + data[at + 6 : at + 7] + b"\0"  # its transparent colour
            at += 2
            while data[at]:
                at += 1 + data[at]
        at += 1
    return header + control + data[at:]


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height from the first chunk, which is one of three kinds; (0, 0) for any other."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if data[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _orientation(exif: object) -> int:
    """Return 1 to 8 from an EXIF block; 1 if there is none, it is broken, or it has another value."""
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for number in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * number)
            if tag == 0x0112 and kind == 3:
                return value if value in _TURNS else 1
    except struct.error:  # the block is cut off
        pass
    return 1


# Copies Pillow's pixels block by block: without a second copy of the picture, and four times faster than
# numpy.asarray(image), which creates one long bytes object.


def _upright_rgb(image: Image.Image, orientation: int) -> Pixels:
    rows_backwards, columns_backwards, rows_as_columns = _TURNS[orientation]
    width, height = image.size
    pixels = np.empty((width, height, 3) if rows_as_columns else (height, width, 3), np.uint8)
    as_stored = pixels[:: -1 if rows_backwards else 1, :: -1 if columns_backwards else 1]
    if rows_as_columns:
        as_stored = as_stored.transpose(1, 0, 2)
    to_rgb = _grey_scaler(image) if image.mode in _DEEP_GREY else _block_rgb
    for left, top, right, bottom in _boxes(width, height):
        as_stored[top:bottom, left:right] = to_rgb(image.crop((left, top, right, bottom)))
    return pixels


def _boxes(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes (left, top, right, bottom) of whole rows that cover the picture, at most _BLOCK_PIXELS each."""
    rows = _BLOCK_PIXELS // width  # at least 4, because no side is longer than _MAX_SIDE_PX
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _block_rgb(block: Image.Image) -> Pixels:
    if block.has_transparency_data:
        # Pillow cannot convert premultiplied grey to RGBA
        rgba = (block.convert("LA") if block.mode == "La" else block).convert("RGBA")
        block = Image.new("RGB", block.size, "white")
        block.paste(rgba, mask=rgba)
    elif block.mode != "RGB":
        block = block.convert("RGB")
    return np.asarray(block)


def _grey_scaler(image: Image.Image) -> Callable[[Image.Image], Pixels]:
    """Return a function that scales blocks of `image` to (height, width, 1) by the range of the whole picture."""
    transparent = image.info.get("transparency")  # the transparent value of a PNG
    if not isinstance(transparent, int):
        transparent = np.nan  # which equals no value
    low, high = np.inf, -np.inf
    for box in _boxes(*image.size):
        values = np.asarray(image.crop(box))
        seen = values[np.isfinite(values) & (values != transparent)]
        if seen.size:
            low, high = min(low, float(seen.min())), max(high, float(seen.max()))
    scale = 255 / (high - low) if high > low else 0.0

    def scaled(block: Image.Image) -> Pixels:
        values = np.asarray(block)
        if scale:
            with np.errstate(invalid="ignore"):  # casting a signalling not-a-number warns
                grey = (np.clip(values.astype(np.float64), low, high) - low) * scale
            pixels = np.rint(np.nan_to_num(grey, nan=0.0)).astype(np.uint8)
        else:
            pixels = np.zeros(values.shape, np.uint8)
        pixels[values == transparent] = 255
        return pixels[:, :, None]

    return scaled
