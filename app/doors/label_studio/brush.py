"""Brush RLE: the form in which Label Studio keeps masks that were painted with a brush.

Not COCO RLE: the mask is taken row by row as RGBA pixels of 0 or 255, so each pixel is four equal bytes, and the
runs of bytes are packed into a stream of bits. Does not know what the mask shows.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from app.scheduling.abandoned import check_wanted

Integers: TypeAlias = npt.NDArray[np.int64]

_CHANNELS = 4
_LONGEST = 2**16
"""Most bytes in one code; a longer run is several codes."""
_WORD_SIZES = (2, 3, 7, 15)
"""Bits of the four kinds of run lengths, less one each."""
_AT_ONCE = 2**12
"""Codes that become bits in one step: a hundred thousand bits."""


def encode_brush(lengths: Integers) -> bytes:
    """Encode a mask, given by its run lengths in pixels row by row (n,), the first one background.

    The stream: the number of bytes N, four for each pixel, in 32 bits; 7 in 5 bits (words of 8); the four word
    sizes in 4 bits each; a code for each run; then zeros up to a whole byte, eight if it is whole already.
    """
    values = np.where(np.arange(len(lengths)) % 2 == 1, 255, 0)
    lengths = lengths * _CHANNELS
    some = lengths > 0
    head = np.array([lengths.sum(), 7, *_WORD_SIZES])
    codes, sizes = _codes(lengths[some], values[some])
    bits = [_bits(head, np.array([32, 5, 4, 4, 4, 4]))]
    for start in range(0, len(codes), _AT_ONCE):
        check_wanted()
        bits.append(_bits(codes[start : start + _AT_ONCE], sizes[start : start + _AT_ONCE]))
    bits.append(np.zeros(8 - sum(map(len, bits)) % 8, np.uint8))
    return np.packbits(np.concatenate(bits)).tobytes()


def _codes(lengths: Integers, values: Integers) -> tuple[Integers, Integers]:
    """Return the bits of each code as a number, and how many they are."""
    parts = -(-lengths // _LONGEST)
    values = np.repeat(values, parts)
    last = np.cumsum(parts) - 1
    sizes = np.full(len(values), _LONGEST, np.int64)
    sizes[last] = lengths - (parts - 1) * _LONGEST
    # All parts of a long run have the longest form, also a last one that is short.
    of_long = np.repeat(parts > 1, parts)
    kinds = np.select([of_long, sizes == 1, sizes <= 8, sizes <= 16, sizes <= 256], [3, -1, 0, 1, 2], 3)
    width = np.array([3, 4, 8, 16, 3])[kinds]  # the last one is for a single byte: 0 00 000
    prefix = np.array([0b100, 0b101, 0b110, 0b111, 0])[kinds]
    return (prefix << (width + 8)) | ((sizes - 1) << 8) | values, 3 + width + 8


def _bits(codes: Integers, sizes: Integers) -> npt.NDArray[np.uint8]:
    """Return the bits of numbers, the most significant first; `sizes` says how many each has."""
    ends = np.cumsum(sizes)
    shifts = np.repeat(ends, sizes) - 1 - np.arange(int(ends[-1]))
    return ((np.repeat(codes, sizes) >> shifts) & 1).astype(np.uint8)
