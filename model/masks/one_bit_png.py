"""A mask as a PNG of one bit a pixel.

Written row by row from the mask's runs. Does not know about logits and other pictures.
"""

import struct
import zlib

import numpy as np

from model.masks.runs import Runs
from model.masks.transposing import by_rows

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
"""The filter that gives each byte's difference to the one above, which is 0 except at the outline."""


def png(mask: Runs) -> bytes:
    """The mask as a one-bit PNG, white on the object (W3C's PNG specification, third edition)."""
    packed = np.packbits(by_rows(mask), axis=1)
    rows = np.full((mask.height, 1 + packed.shape[1]), _UP, np.uint8)
    rows[:, 1:] = packed
    rows[1:, 1:] -= packed[:-1]
    header = struct.pack(
        ">IIBBBBB", mask.width, mask.height, 1, 0, 0, 0, 0
    )  # one bit of grey, not interlaced
    # Of such rows, a search for runs of equal bytes alone gives smaller files than one for longer matches, in a
    # quarter of the time.
    deflate = zlib.compressobj(strategy=zlib.Z_RLE)
    data = deflate.compress(rows.tobytes()) + deflate.flush()
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
