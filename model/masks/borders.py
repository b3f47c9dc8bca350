"""Traces the borders of a mask along the edges of its pixels, from its runs.

The cost grows with the length of the borders, not with the picture. Does not know about logits and polygons.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, depth_first_order

from model.masks.runs import Integers, Runs

NORTH, EAST, SOUTH, WEST = range(4)
STEPS = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])
"""(4, 2): x and y from a pixel to its neighbour, by side."""

_CORNERS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
"""(4, 2): x and y of the corner of a pixel at which each side begins, with the pixel to the right."""
_FAR = 1 << 40
"""The width of background that ends outside the picture."""


@dataclass(frozen=True, slots=True, eq=False)
class Borders:
    """Unit edges between object and background, in order along closed rings, with the object to the right.

    Pixels of the object that touch only by a corner have separate rings.
    """

    pixels: Integers
    """(n, 2): x and y of the object's pixel at each edge."""
    sides: Integers
    """(n,): the side of that pixel."""
    object_widths: Integers
    background_widths: Integers
    """(n,): pixels across the edge until the other side of the object, and of the background."""
    starts: Integers
    """(rings + 1,): where each ring begins; the last entry is n."""
    areas: Integers
    """(rings,): pixels within each ring, negative for holes."""


def borders(mask: Runs) -> Borders:
    """Trace all borders of a mask. An empty mask has none."""
    columns, tops, bottoms = _column_segments(mask)
    rows, lefts, rights = _row_segments(columns, tops, bottoms, height=mask.height, width=mask.width)
    above, below = _gaps(columns, tops, bottoms)
    before, after = _gaps(rows, lefts, rights)
    pixels = np.concatenate(
        [
            np.stack((columns, tops), axis=1),
            np.stack((rights - 1, rows), axis=1),
            np.stack((columns, bottoms - 1), axis=1),
            np.stack((lefts, rows), axis=1),
        ]
    )
    sides = np.repeat((NORTH, EAST, SOUTH, WEST), (len(tops), len(rows), len(tops), len(rows)))
    heights, widths = bottoms - tops, rights - lefts
    following = _following(pixels, sides, width=mask.width)
    order, starts = _ring_by_ring(following)
    turned = np.select([sides == EAST, sides == WEST], [pixels[:, 0] + 1, -pixels[:, 0]])[order]
    return Borders(
        pixels=pixels[order],
        sides=sides[order],
        object_widths=np.concatenate((heights, widths, heights, widths))[order],
        background_widths=np.concatenate((above, after, below, before))[order],
        starts=starts,
        areas=np.add.reduceat(turned, starts[:-1]) if order.size else turned,
    )


def _column_segments(mask: Runs) -> tuple[Integers, Integers, Integers]:
    """Return column, first row and last row + 1 of the object's runs, cut where they go on in the next column."""
    ends = np.cumsum(mask.lengths)
    firsts, lasts = ends[:-1:2], ends[1::2] - 1
    left, right = firsts // mask.height, lasts // mask.height
    run = np.repeat(np.arange(firsts.size), right - left + 1)
    nth = np.arange(run.size) - np.searchsorted(run, run)
    columns = left[run] + nth
    tops = np.where(nth == 0, firsts[run] % mask.height, 0)
    bottoms = np.where(columns == right[run], lasts[run] % mask.height + 1, mask.height)
    return columns, tops, bottoms


def _row_segments(
    columns: Integers, tops: Integers, bottoms: Integers, *, height: int, width: int
) -> tuple[Integers, Integers, Integers]:
    """Return row, first column and last column + 1 of the object's runs along rows, in reading order."""
    stride = height + 1
    both = np.concatenate((tops, bottoms)) + np.tile(columns * stride, 2)
    ends = np.sort(np.concatenate((both, both + stride)))  # along the left and the right side of each column
    # What ends or begins on both sides of a line between two columns is no end of the difference between them.
    values, counts = np.unique(ends, return_counts=True)
    changes = values[counts % 2 == 1]
    lines, first_rows = np.divmod(changes[::2], stride)
    lengths = changes[1::2] - changes[::2]
    stretch = np.repeat(np.arange(lengths.size), lengths)
    rows = first_rows[stretch] + np.arange(stretch.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    edges = np.sort(rows * (width + 1) + lines[stretch])
    rows, lefts = np.divmod(edges[::2], width + 1)
    return rows, lefts, edges[1::2] % (width + 1)


def _gaps(lines: Integers, begins: Integers, ends: Integers) -> tuple[Integers, Integers]:
    """Return the background before and after each segment of its line."""
    between = np.where(lines[1:] == lines[:-1], begins[1:] - ends[:-1], _FAR)
    outside = np.full(min(1, lines.size), _FAR)
    return np.concatenate((outside, between)), np.concatenate((between, outside))


def _following(pixels: Integers, sides: Integers, *, width: int) -> Integers:
    """Return (n,) the edge that begins where each edge ends.

    Where two pixels touch by a corner, two edges end and two begin. Their rows differ, so their last bits do.
    """
    begins, ends = pixels + _CORNERS[sides], pixels + _CORNERS[(sides + 1) % 4]
    odd = pixels[:, 1] & 1
    following = np.empty_like(sides)
    ending = np.argsort((ends[:, 1] * (width + 1) + ends[:, 0]) * 2 + odd)
    following[ending] = np.argsort((begins[:, 1] * (width + 1) + begins[:, 0]) * 2 + odd)
    return following


def _ring_by_ring(following: Integers) -> tuple[Integers, Integers]:
    """Return the edges in order along their rings, and (rings + 1,) where each ring begins.

    Each ring begins at the first of its edges.
    """
    n = following.size
    if not n:
        return following, np.zeros(1, dtype=np.int64)
    everywhere, pointers = np.ones(n, dtype=np.int8), np.arange(n + 1)
    _, labels = connected_components(csr_matrix((everywhere, following, pointers), shape=(n, n)))
    _, firsts, sizes = np.unique(labels, return_index=True, return_counts=True)
    by_first = np.argsort(firsts)
    firsts, sizes = firsts[by_first], sizes[by_first]
    preceding = np.empty_like(following)
    preceding[following] = np.arange(n)
    path = following.copy()
    path[preceding[firsts]] = np.roll(firsts, -1)  # from the end of each ring on to the next ring
    order = depth_first_order(
        csr_matrix((everywhere, path, pointers), shape=(n, n)), firsts[0], return_predecessors=False
    )
    return order.astype(np.int64), np.concatenate(([0], np.cumsum(sizes)))
