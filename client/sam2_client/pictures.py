"""A picture given as a file, its bytes, a PIL image or an array.

Does not know about servers.
"""

import hashlib
import io
import os
import struct
import threading
import warnings
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from sam2_client.deep_pictures import deep_picture, is_deep, shades
from sam2_client.errors import PictureChanged
from sam2_client.picture_files import stored_orientation, without_metadata

PictureSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]
"""A path; the bytes of a picture file; a PIL image; or an array (height, width) or (height, width, 3 or 4)."""

Stretch: TypeAlias = Literal["range", "percentile", "none"]
"""How the service reads a picture of more than 8 bits: from its smallest to its largest value; without the darkest
and brightest 0.1 % and what stands for no data; or from 0 to the largest value of its type."""

LARGE_MIB = 16
"""Lossless uploads above this size raise a warning."""

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_OTHER_ORDERS = ("I;16B", "I;16L", "I;16N")
_TIFF_MODES = ("I", "F")  # 32-bit grey, which PNG cannot store
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_DEPTH = 24  # where the file says how many bits a sample has
_ANY_DATA = bytes(range(1, 255))  # a JPEG that has all its pixels shows none of it
_BROKEN = (
    ValueError,
    ArithmeticError,
    AssertionError,
    LookupError,
    RuntimeError,
    SyntaxError,
    TypeError,
    struct.error,
)
"""What Pillow's decoders raise for broken files, besides OSError."""
_ALPHA_MODES = {"PA": "RGBA", "La": "LA", "RGBa": "RGBA"}
_LOADING = threading.Lock()
"""Pillow reads a file's pixels when they are first needed, and breaks where two threads need those of one image."""


class LargePictureWarning(UserWarning):
    """Pixels make a large upload, while the picture's original file may be small."""


class Picture:
    """A picture that can be uploaded, and uploaded again if the server has evicted it.

    Files are uploaded unchanged. They are read when needed, so a thousand of them take no memory. PIL images and
    arrays are encoded without loss, usually as PNG, and the result is kept in memory.
    """

    def __init__(self, source: PictureSource, *, stretch: Stretch = "range") -> None:
        """Raises TypeError or ValueError if `source` is not a picture, or `stretch` is not one of its values."""
        if stretch not in get_args(Stretch):
            raise ValueError(f"stretch is {stretch!r}, but must be one of {', '.join(get_args(Stretch))}")
        self.stretch = stretch
        self.path: Path | None = None
        self._data = b""
        self._digest: bytes | None = None
        if isinstance(source, bytes):
            self._data = source
        elif isinstance(source, str | os.PathLike):
            if str(source).startswith(("http://", "https://")):
                raise ValueError(f"{source} is a URL: download the file and pass its path or its bytes")
            self.path = Path(source)
        else:
            image = source if isinstance(source, Image.Image) else _from_array(source)
            self._data = encoded(image)
            if len(self._data) > LARGE_MIB * 2**20:
                warnings.warn(
                    f"{image.width} x {image.height} pixels make an upload of {len(self._data) / 2**20:.0f} MiB: "
                    "if you have a file of this picture, pass its path instead",
                    LargePictureWarning,
                    stacklevel=2,
                )

    def read(self) -> bytes:
        """Return the bytes to upload. Raises OSError, and PictureChanged if the file has changed."""
        if self.path is None:
            return self._data
        data = self.path.read_bytes()
        digest = hashlib.sha256(data).digest()
        if self._digest is not None and digest != self._digest:
            raise PictureChanged(
                f"{self.path} has changed since it was embedded, and the earlier picture is needed once more. "
                "Embed the file again."
            )
        self._digest = digest
        return data

    def open(self) -> Image.Image:
        """Return the picture in RGB, as open_picture does. Raises as `read`."""
        return open_picture(self.read())


def open_picture(source: PictureSource) -> Image.Image:
    """Return the picture in RGB, as the service sees it.

    Files are turned as browsers turn them; PIL images are not. Transparent pixels are blended with white. More than
    8 bits are scaled from the picture's own finite minimum and maximum to 0..255. Raises OSError for what is cut
    off, and for what Pillow cannot read or reads otherwise than the service.
    """
    if isinstance(source, Image.Image):
        with _LOADING:
            source.load()
        return _to_rgb(source)
    if not isinstance(source, bytes | str | os.PathLike):
        return _to_rgb(_from_array(source))
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    orientation = stored_orientation(data)
    plain = without_metadata(data)
    what = "the picture" if isinstance(source, bytes) else source
    try:
        return _decoded(plain, orientation)
    except Image.DecompressionBombError as error:
        raise OSError(
            f"{what} cannot be shown here: Pillow opens none so large, which the service may accept all the same, "
            f"unless PIL.Image.MAX_IMAGE_PIXELS is None ({error})"
        ) from error
    except (UnidentifiedImageError, *_BROKEN) as error:
        raise OSError(
            f"{what} cannot be shown here: Pillow cannot read this kind of picture, which the service may read all "
            "the same; convert it to PNG"
        ) from error
    except OSError:
        whole = _without_end(plain, orientation)
        if whole is None:
            raise
        return whole


def _decoded(data: bytes, orientation: int | None) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        if image.format == "GIF":
            return _within_frame(image)
        if image.format == "PNG" and image.mode == "L" and "transparency" in image.info:
            # Pillow scales samples of 2 and 4 bits to 8, and the value that is transparent it does not
            most = (1 << data[_PNG_DEPTH]) - 1
            image.info["transparency"] = (image.info["transparency"] & most) * 255 // most
        shown = deep_picture(image, data) or image
        if orientation is None:  # Pillow knows what TIFF and AVIF say
            return _to_rgb(ImageOps.exif_transpose(shown))
        return _to_rgb(shown.transpose(_TURNS[orientation]) if orientation in _TURNS else shown)


def _without_end(data: bytes, orientation: int | None) -> Image.Image | None:
    """Return the picture of a JPEG that lacks only its end; None if it lacks pixels: then they are what follows."""
    if not data.startswith(b"\xff\xd8"):
        return None
    rest = data.removesuffix(b"\xff")
    shown, other = (_decoded(rest + end + b"\xff\xd9", orientation) for end in (b"", _ANY_DATA))
    return shown if shown.tobytes() == other.tobytes() else None


def _within_frame(image: Image.Image) -> Image.Image:
    """Return the first frame of a GIF: white where it leaves the screen free, for which Pillow has a colour."""
    place = image.tile[0][1] if isinstance(image, ImageFile.ImageFile) and image.tile else None
    shown = _to_rgb(image)
    if place is None or place == (0, 0, *shown.size):
        return shown
    screen = Image.new("RGB", shown.size, "white")
    screen.paste(shown.crop(place), place[:2])
    return screen


def _to_rgb(image: Image.Image) -> Image.Image:
    if is_deep(image):
        image = Image.fromarray(shades(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert(_ALPHA_MODES.get(image.mode, image.mode)).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def is_one_picture(value: object) -> bool:
    """Whether this is the array of a picture, whose rows would pass for pictures of their own."""
    return isinstance(value, np.ndarray) and value.ndim > 1 and value.shape[2:] in ((), (1,), (3,), (4,))


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{type(array).__name__} is not a picture: pass a path, the bytes of a file, a PIL image or an array"
        )
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    channels = array.shape[2:]
    if array.ndim not in (2, 3) or channels not in ((), (1,), (3,), (4,)):
        raise ValueError(
            f"an array of shape {array.shape} is not a picture: use (height, width), or (height, width, 3 or 4)"
        )
    if array.dtype != np.uint8 and not (array.dtype == np.uint16 and channels in ((), (1,))):
        raise ValueError(
            f"an array of {array.dtype} has no defined value range: convert it to uint8, or grey to uint16"
        )
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if channels == (1,) else array))


def encoded(image: Image.Image) -> bytes:
    """Return the pixels as they are, without loss, as PNG or TIFF: the image's EXIF orientation is not applied."""
    with _LOADING:
        image.load()
        image = image.copy()  # `save` keeps its options at the image, where several threads would share them
    if image.mode in _ALPHA_MODES:
        image = image.convert(_ALPHA_MODES[image.mode])
    elif image.mode in _OTHER_ORDERS:  # what Pillow converts itself is cut at 255
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    elif image.mode not in (
        *_PNG_MODES,
        *_TIFF_MODES,
    ):  # for example CMYK, which the service would also convert
        image = image.convert("RGB")
    file = io.BytesIO()
    if image.mode in _TIFF_MODES:
        image.save(file, "TIFF")
    else:
        image.save(file, "PNG", compress_level=1)
    return file.getvalue()
