"""Writes masks row by row, as other tools want them, in JSON: run lengths, or all pixels.

In pieces, because a single call for a large mask would hold the interpreter lock for long. Does not know the
tools.
"""

from collections.abc import Iterator

import numpy as np

from app.codecs.rle import Lengths
from model.masks.runs import Runs
from model.masks.transposing import transpose

_AT_ONCE = 8192


def row_lengths(mask: Runs) -> Lengths:
    """Return the run lengths (n,) row by row, the first one background."""
    return transpose(mask).lengths


def write_row_lengths(mask: Runs) -> str:
    """Return the lengths of the runs row by row, the first one background, as numbers with commas between."""
    return ",".join(_numbers(row_lengths(mask)))


def rows(mask: Runs) -> Iterator[bytes]:
    """Yield the pixels, as pieces of a list of rows: 0 on the background, 255 on the object."""
    by_rows = transpose(mask)
    toggles = np.cumsum(by_rows.lengths)
    size = mask.height * mask.width
    # Spans of one value that lie in one row.
    starts = np.union1d(toggles[toggles < size], np.arange(0, size, mask.width))
    sizes = np.diff(starts, append=size)
    on_object = np.searchsorted(toggles, starts, side="right") % 2 == 1
    begins_row = starts % mask.width == 0
    yield b"["
    for at in range(0, starts.size, _AT_ONCE):
        spans = (each[at : at + _AT_ONCE].tolist() for each in (starts, sizes, on_object, begins_row))
        for start, count, inside, begins in zip(*spans, strict=True):
            if begins:
                yield b"],[" if start else b"["
            else:
                yield b","
            yield ((b"255," if inside else b"0,") * count)[:-1]
    yield b"]]"


def _numbers(lengths: Lengths) -> Iterator[str]:
    for at in range(0, lengths.size, _AT_ONCE):
        yield ",".join(map(str, lengths[at : at + _AT_ONCE].tolist()))
