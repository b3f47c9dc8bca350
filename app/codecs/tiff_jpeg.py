"""Reads JPEG in TIFF (TIFF technical note 2): a JPEG without its tables in each strip or tile.

libtiff uses the same library and makes grey of what is cut off. Does not know about other compressions.
"""

import numpy as np
from PIL import Image

from app.codecs.jpeg import check_stream, decode_stream
from app.codecs.tiff_layout import CMYK, PREMULTIPLIED, RGB, WHITE_IS_ZERO, YCBCR, Layout
from app.codecs.tiff_tags import Directory, Tag
from app.codecs.upright import Pixels, Rows, over_white
from app.errors import InvalidImage


def read(directory: Directory, layout: Layout) -> Rows:
    """Return the rows of the picture as RGB of 8 bits."""
    width, height = layout.size
    part_width, part_height = layout.part_size
    across = -(-width // part_width)
    tables = directory.bytes_of(Tag.JPEG_TABLES).removesuffix(b"\xff\xd9") or b"\xff\xd8"
    # libjpeg guesses what the channels are unless Adobe's marker tells: 1 is YCbCr, 0 as they are
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + (b"\1" if layout.photometric == YCBCR else b"\0")
    head = tables[:2] + (adobe if layout.photometric in (RGB, CMYK, YCBCR) else b"") + tables[2:]
    colours = {1: "GRAY", 3: "RGB", 4: "CMYK"}[layout.samples]  # 4 samples as they are, RGB and alpha too
    pixels = np.empty((height, width, layout.samples), np.uint8)
    offsets, lengths = (
        (Tag.TILE_OFFSETS, Tag.TILE_BYTES) if layout.is_tiled else (Tag.STRIP_OFFSETS, Tag.STRIP_BYTES)
    )
    parts = zip(directory.all(offsets), directory.all(lengths), strict=False)
    for number, (at, length) in enumerate(parts):
        if number == layout.parts_of_plane:
            break
        left, top = number % across * part_width, number // across * part_height
        stream = head + directory.data[at + 2 : at + length] + b"\xff\xd9"
        check_stream(stream, most=layout.part_size)
        part = decode_stream(stream, colours)
        place = pixels[top : top + part_height, left : left + part_width]
        if part.shape[0] < place.shape[0] or part.shape[1] < place.shape[1]:
            raise InvalidImage("The TIFF is cut off: a strip or tile is too small. Send the whole file.")
        place[:] = part[: place.shape[0], : place.shape[1]]

    def rows(top: int, bottom: int) -> Pixels:
        block = pixels[top:bottom]
        if layout.photometric == WHITE_IS_ZERO:
            return 255 - block
        if layout.photometric == CMYK:
            return over_white(Image.fromarray(block, "CMYK"))
        if layout.alpha:
            return over_white(Image.fromarray(block, "RGBa" if layout.alpha == PREMULTIPLIED else "RGBA"))
        return block[:, :, : layout.colours]

    return rows
