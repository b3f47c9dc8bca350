"""Files of more than 8 bits a channel, signed or of floats, scaled to 8 bits as the service scales them.

Pillow has modes of 8 bits only for colour, and keeps the high bytes: a picture of a 12-bit camera is black then. So
its decoder runs twice. Of some TIFFs it reads the samples otherwise than they are meant; those are refused.
"""

import io
import re
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

_RAW = re.compile(r"(RGB|RGBA|RGBX|CMYK);16([BLN])")
_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""In the other byte order, the high bytes are the low ones."""
_GREY_ALPHA = "LA;16B"
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _NO_DATA = 258, 262, 339, 42113
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2

Values = npt.NDArray[Any]


def deep_picture(image: ImageFile.ImageFile, data: bytes) -> Image.Image | None:
    """Return the picture in RGB, opacity laid over white, if it has more than 8 bits; None if it has not.

    `image` is the open file `data`. Raises OSError if it is cut off, or shown otherwise here than by the service.
    """
    modes = {_raw_mode(tile) for tile in image.tile}
    if modes == {_GREY_ALPHA}:
        image.tile = [_of_mode(tile, "RGBA") for tile in image.tile]  # both bytes of grey, both of alpha
        values = np.asarray(image).view(">u2")
        return Image.fromarray(shades(values[..., :1], values[..., 1:] / np.float32(65535))[..., 0])
    if modes and all(map(_RAW.fullmatch, modes)):
        return _deep_colour(image, data)
    tags = getattr(image, "tag_v2", {})
    formats = {4: _UNSIGNED}  # 4 is "undefined", written by old programs
    numbers = {formats.get(number, number) for number in tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))}
    if is_deep(image) or (image.mode == "L" and numbers == {_SIGNED}):
        values = np.asarray(image)
        if tags and image.mode in ("I", "L"):
            values = values.view(f"{'i' if numbers == {_SIGNED} else 'u'}{values.itemsize}")
        if (transparent := image.info.get("transparency")) is not None:  # of a PNG
            return Image.fromarray(shades(values, (values != transparent).astype(np.float32)))
        is_inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        return Image.fromarray(shades(values, no_data=_number(tags.get(_NO_DATA)), is_inverted=is_inverted))
    if numbers != {_UNSIGNED} or max(tags.get(_BITS, (1,))) > 8:
        raise OSError(
            "this kind of TIFF cannot be shown here as the service sees it: its samples have more than 8 bits, in "
            "planes or of an unusual kind; convert it to PNG"
        )
    return None


def is_deep(image: Image.Image) -> bool:
    """Whether the image has one channel of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def shades(
    values: Values,
    opacity: Values | None = None,
    *,
    no_data: float | None = None,
    is_inverted: bool = False,
) -> npt.NDArray[np.uint8]:
    """Return values in 8 bits, from the smallest to the largest that is finite, seen and not `no_data`.

    `opacity`, from 0 to 1, is laid over white. One value alone becomes black, and so do not-a-numbers.
    """
    is_data = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, np.bool_)
    if opacity is not None:
        is_data &= opacity > 0
    if no_data is not None:
        is_data &= values != no_data
    seen = values[is_data]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    precise = np.float32 if values.itemsize <= 2 else np.float64
    scaled = np.zeros(values.shape, precise)
    if high > low:
        with np.errstate(invalid="ignore"):
            scaled = (np.clip(values.astype(precise), low, high) - precise(low)) * precise(255 / (high - low))
        scaled = np.nan_to_num(255 - scaled if is_inverted else scaled, nan=0.0)
    if opacity is not None:
        scaled = scaled * opacity + 255 * (1 - opacity)
    return np.rint(scaled).astype(np.uint8)


def _deep_colour(image: Image.Image, data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as low:
        low.tile = [_with_low_bytes(tile) for tile in low.tile]
        values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
    if image.mode == "CMYK":
        return Image.fromarray(shades(values), "CMYK").convert("RGB")
    opacity = None
    if values.shape[2] == 4:
        opacity = values[..., 3:].astype(np.float32) / 65535
    elif (transparent := image.info.get("transparency")) is not None:
        opacity = (values != transparent).any(axis=2, keepdims=True).astype(np.float32)
    return Image.fromarray(shades(values[..., :3], opacity))


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _raw_mode(tile: tuple[object, ...]) -> str:
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _with_low_bytes(tile: "ImageFile._Tile") -> "ImageFile._Tile":
    mode = _raw_mode(tile)
    return _of_mode(tile, mode[:-1] + _OTHER[mode[-1]])


def _of_mode(tile: "ImageFile._Tile", mode: str) -> "ImageFile._Tile":
    return tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode)
