"""Outlines as other tools want them: outer rings with the holes that lie in them.

Does not know about masks.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Ring: TypeAlias = list[list[float]]
"""Points [x, y]; the first is not repeated at the end."""


def with_holes(outer: Sequence[Ring], holes: Sequence[Ring]) -> list[list[Ring]]:
    """Return each outer ring followed by its holes. A hole belongs to the smallest ring around it."""
    parts = [[ring] for ring in outer]
    areas = [area(ring) for ring in outer]
    for hole in holes:
        around = [number for number, ring in enumerate(outer) if is_inside(hole, ring)]
        if around:
            parts[min(around, key=lambda number: areas[number])].append(hole)
    return parts


def closed(ring: Ring) -> Ring:
    """Return a ring with its first point again at its end, as GeoJSON has it."""
    return [*ring, ring[0]]


def area(ring: Ring) -> float:
    """Return what a ring encloses, in square pixels."""
    x, y = np.asarray(ring, np.float64).T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def is_inside(hole: Ring, ring: Ring) -> bool:
    """Whether most points of a hole lie in a ring, by the number of edges to the left of each.

    Most and not one: rounding can put single points of a hole onto the ring.
    """
    points, corners = np.asarray(hole, np.float64), np.asarray(ring, np.float64)
    step = max(1, len(points) // 16)
    inside = 0
    sample = points[::step]
    ends = np.roll(corners, -1, axis=0)
    for x, y in sample:
        crosses = (corners[:, 1] > y) != (ends[:, 1] > y)
        start, end = corners[crosses], ends[crosses]
        at_x = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
        inside += int(np.count_nonzero(at_x < x) % 2)
    return 2 * inside > len(sample)
