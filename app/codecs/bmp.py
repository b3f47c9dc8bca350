"""Reads BMP: run-length coded ones are unpacked here, and the pixels come from Pillow.

Does not know about other formats.
"""

import io
import struct

from PIL import Image

from app.codecs.part_limits import check_size
from app.codecs.upright import Pixels, rows_of, upright
from app.errors import ImageTooLarge, InvalidImage

_RLE8, _RLE4 = 1, 2
_MAX_RLE_PIXELS = 4_000_000  # unpacked in Python: 40 kB with 100 megapixels would take seconds
_MAX_RUNS = 1_000_000  # a run takes a microsecond


def decode(data: bytes, *, max_pixels: int) -> Pixels:
    """Return the picture. Raises InvalidImage unless the data of all its rows are there."""
    with Image.open(io.BytesIO(data), formats=["BMP"]) as image:
        check_size(image.size, max_pixels)
        if image.info["compression"] not in (_RLE8, _RLE4):
            return upright(rows_of(image), size=image.size, orientation=1)
        if image.width * image.height > _MAX_RLE_PIXELS:
            raise ImageTooLarge(
                f"The picture is a run-length coded BMP of {image.width} x {image.height}; "
                f"the limit for these is {_MAX_RLE_PIXELS / 1e6:g} megapixels. Send it as PNG."
            )
    with Image.open(io.BytesIO(_without_runs(data, image.size)), formats=["BMP"]) as image:
        return upright(rows_of(image), size=image.size, orientation=1)


def _without_runs(data: bytes, size: tuple[int, int]) -> bytes:
    """Return the same BMP with 8 bits a pixel and without compression."""
    width, height = size
    (start,) = struct.unpack_from("<I", data, 10)
    header = bytearray(data[:start])
    (compression,) = struct.unpack_from("<I", data, 30)
    (colours,) = struct.unpack_from("<I", data, 46)
    if compression == _RLE4 and not colours:
        colours = 16
    indices = _unpacked(data, start, size, is_rle4=compression == _RLE4)
    struct.pack_into("<HII", header, 28, 8, 0, 0)  # bits a pixel, compression, size of the data
    struct.pack_into("<I", header, 46, colours)
    padding = bytes(-width % 4)
    return bytes(header) + b"".join(
        indices[row * width : (row + 1) * width] + padding for row in range(height)
    )


def _unpacked(data: bytes, at: int, size: tuple[int, int], *, is_rle4: bool) -> bytearray:
    """Return an index for each pixel; those that the file skips are 0."""
    width, height = size
    indices = bytearray(width * height)
    x = y = 0
    for _ in range(_MAX_RUNS):
        if y >= height or at + 2 > len(data):
            break
        count, value = data[at], data[at + 1]
        at += 2
        if count:  # a run of one value; of two in turn with 4 bits
            pair = bytes((value >> 4, value & 15)) if is_rle4 else bytes((value, value))
            run = (pair * (count + 1 >> 1))[:count]
        elif value == 0:  # end of the row
            x, y = 0, y + 1
            continue
        elif value == 1:  # end of the picture
            x, y = 0, y + (x > 0)
            break
        elif value == 2:  # a step right and up
            if at + 2 > len(data):
                break
            x, y = x + data[at], y + data[at + 1]
            at += 2
            continue
        else:  # so many values as they are, filled to an even number of bytes
            length = value + 1 >> 1 if is_rle4 else value
            run = data[at : at + length]
            if len(run) < length:
                break
            at += length + length % 2
            if is_rle4:
                run = bytes(half for byte in run for half in (byte >> 4, byte & 15))[:value]
        fits = run[: max(0, width - x)]
        indices[y * width + x : y * width + x + len(fits)] = fits
        x += len(run)
    else:
        raise InvalidImage(f"The BMP has more than {_MAX_RUNS} runs. Send it as PNG.")
    if y + (x >= width) < height:
        raise InvalidImage("The BMP is cut off: the data of its last rows are missing. Send the whole file.")
    return indices
