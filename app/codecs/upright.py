"""Puts rows of a decoded picture upright into one array, as EXIF says.

Does not know about file formats.
"""

import struct
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]
Rows: TypeAlias = Callable[[int, int], Pixels]
"""Rows from `top` to `bottom` as they lie in the file: (bottom - top, width, 3), or 1 channel for grey."""

_BLOCK_PIXELS = 2**18  # 1 MiB of Pillow's four bytes a pixel stays in the cache between two passes

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


def exif_orientation(exif: bytes) -> int:
    """Return 1 to 8 from a block of EXIF, without JPEG's header of it; 1 where browsers turn nothing.

    That is without a block, for a broken one, another value, and a tag that is not one SHORT.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for number in range(count):
            tag, kind, values, value = struct.unpack_from(order + "HHIH", exif, start + 2 + 12 * number)
            if tag == 0x0112:
                return value if (kind, values) == (3, 1) and value in _TURNS else 1
    except struct.error:  # the block is cut off
        pass
    return 1


def upright(rows: Rows, *, size: tuple[int, int], orientation: int) -> Pixels:
    """Return the picture of `size` (width, height) as (height, width, 3), contiguous, turned as `orientation` says.

    An orientation that EXIF does not have turns nothing.
    """
    rows_backwards, columns_backwards, rows_as_columns = _TURNS.get(orientation, _TURNS[1])
    width, height = size
    pixels = np.empty((width, height, 3) if rows_as_columns else (height, width, 3), np.uint8)
    as_stored = pixels[:: -1 if rows_backwards else 1, :: -1 if columns_backwards else 1]
    if rows_as_columns:
        as_stored = as_stored.transpose(1, 0, 2)
    for top, bottom in blocks(size):
        as_stored[top:bottom] = rows(top, bottom)
    return pixels


def blocks(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield top and bottom of blocks of rows that cover a picture of `size` (width, height)."""
    width, height = size
    rows = max(1, _BLOCK_PIXELS // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def rows_of(image: Image.Image) -> Rows:
    """Return the rows of an image of Pillow of 8 bits a channel or less, its alpha laid over white.

    Block by block: without a second copy of the picture, and four times faster than numpy.asarray(image), which
    creates one long bytes object.
    """
    return lambda top, bottom: over_white(image.crop((0, top, image.width, bottom)))


def over_white(block: Image.Image) -> Pixels:
    """Return (height, width, 3) of an image of Pillow, its alpha laid over white."""
    if block.has_transparency_data:
        # Pillow cannot convert premultiplied grey to RGBA
        rgba = (block.convert("LA") if block.mode == "La" else block).convert("RGBA")
        block = Image.new("RGB", block.size, "white")
        block.paste(rgba, mask=rgba)
    elif block.mode != "RGB":
        block = block.convert("RGB")
    return np.asarray(block)
