"""Run lengths of a mask row by row, from COCO's, which go column by column.

Does not know what needs them.
"""

from app.codecs.rle import Lengths, decode_counts
from model.masks.runs import Runs
from model.masks.transposing import transpose


def row_lengths(counts: str | list[int], *, height: int, width: int) -> Lengths:
    """Return the run lengths (n,) row by row, the first one background.

    Raises RleError if `counts` is no mask of that size.
    """
    lengths = decode_counts(counts, height=height, width=width)
    return transpose(Runs(height=height, width=width, lengths=lengths)).lengths
