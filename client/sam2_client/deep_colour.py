"""Colour of 16 bits a channel, scaled to 8 by its own range, as the service scales it.

Pillow has modes of 8 bits only for colour, and keeps the high bytes: a picture of a 12-bit camera is black then. So
its decoder runs twice. Does not know about files of other kinds.
"""

import io
import re
import sys

import numpy as np
from PIL import Image, ImageFile

_RAW = re.compile(r"(RGB|RGBA|RGBX);16([BLN])")
_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""In the other byte order, the high bytes are the low ones."""


def deep_colour(image: Image.Image, data: bytes) -> Image.Image | None:
    """Return the picture in RGB, opacity laid over white, if it has 16 bits a channel; None if it has not.

    `image` is the open file `data`. Raises OSError if it is cut off.
    """
    modes = [_raw_mode(tile) for tile in image.tile] if isinstance(image, ImageFile.ImageFile) else []
    if not modes or not all(map(_RAW.fullmatch, modes)):
        return None
    with Image.open(io.BytesIO(data)) as low:
        low.tile = [_with_low_bytes(tile) for tile in low.tile]
        values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
    colours = values[..., :3].astype(np.float32)
    opacity = None
    if values.shape[2] == 4:
        opacity = values[..., 3:].astype(np.float32) / 65535
    elif (transparent := image.info.get("transparency")) is not None:
        opacity = (values != transparent).any(axis=2, keepdims=True).astype(np.float32)
    seen = colours if opacity is None else colours[opacity[..., 0] > 0]
    lowest, highest = (seen.min(), seen.max()) if seen.size else (0.0, 0.0)
    shades = (colours.clip(lowest, highest) - lowest) * (255 / max(highest - lowest, 1))
    if opacity is not None:
        shades = shades * opacity + 255 * (1 - opacity)
    return Image.fromarray(np.rint(shades).astype(np.uint8))


def _raw_mode(tile: tuple[object, ...]) -> str:
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _with_low_bytes(tile: "ImageFile._Tile") -> "ImageFile._Tile":
    mode = _raw_mode(tile)
    other = mode[:-1] + _OTHER[mode[-1]]
    return tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
