"""Traces the rings around a mask, along the edges of its pixels.

Exact: filling the rings restores the mask. Does not know where masks come from.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Ring: TypeAlias = list[tuple[int, int]]
"""Corners (x, y) in pixels; the first is not repeated at the end. Pixel (0, 0) covers 0..1 x 0..1."""


class Outlines(NamedTuple):
    """The rings of a mask."""

    polygons: list[Ring]
    """Outer rings, clockwise on the screen."""
    holes: list[Ring]
    """Rings around the background within the object, counter-clockwise."""


def trace(mask: npt.NDArray[np.bool_], *, offset: tuple[int, int] = (0, 0)) -> Outlines:
    """Return the outlines of a mask (height, width) whose upper left corner is at `offset` (x, y).

    On the screen (y downwards) outer rings run clockwise and holes counter-clockwise. Pixels that touch
    only at a corner have separate rings.
    """
    padded = np.pad(mask, 1)
    above_left, above_right = padded[:-1, :-1], padded[:-1, 1:]
    below_left, below_right = padded[1:, :-1], padded[1:, 1:]
    # A ring has a corner at each point of the grid where one horizontal and one vertical edge meet. Where four
    # edges meet, two pixels touch only by their corners, and the point is a corner twice.
    turns = (above_left != below_left) != (above_right != below_right)
    touches = (above_left == below_right) & (above_right == below_left) & (above_left != above_right)
    y, x = np.nonzero(turns | touches)
    twice = touches[y, x]
    # Of two corners at one point, the first takes the edge to the left. If the pixel above left belongs to the
    # object, the first also takes the edge upwards.
    first_up = np.repeat(above_left[y, x], 1 + twice)
    y, x = np.repeat(y, 1 + twice), np.repeat(x, 1 + twice)
    number = np.arange(y.size)
    second = np.zeros(y.size, bool)
    second[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])

    beside = _partners(number)
    down_order = np.lexsort((second == first_up, y, x))
    upright = _partners(down_order)

    outer: list[Ring] = []
    holes: list[Ring] = []
    corners = list(zip((x + offset[0]).tolist(), (y + offset[1]).tolist(), strict=True))
    is_object = below_right[y, x].tolist()
    left_to_visit = [True] * len(corners)
    # Corners come in reading order, so each ring starts at the left end of its top edge, and the ring's inside lies
    # below right of that corner.
    for start in range(len(corners)):
        if not left_to_visit[start]:
            continue
        ring: Ring = []
        at = start
        sideways = is_object[start]
        while left_to_visit[at]:
            left_to_visit[at] = False
            ring.append(corners[at])
            at = beside[at] if sideways else upright[at]
            sideways = not sideways
        (outer if is_object[start] else holes).append(ring)
    return Outlines(outer, holes)


def _partners(order: npt.NDArray[np.int64]) -> list[int]:
    """Return the other end of each corner's edge. Each two corners in `order` are the ends of one edge."""
    partners = np.empty_like(order)
    partners[order[::2]] = order[1::2]
    partners[order[1::2]] = order[::2]
    as_list: list[int] = partners.tolist()
    return as_list
