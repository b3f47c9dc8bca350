"""Outlines as other tools want them: outer rings with the holes that lie in them, or outermost rings alone.

Does not know about masks.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ring: TypeAlias = list[list[float]]
"""Points [x, y]; the first is not repeated at the end."""
Floats: TypeAlias = npt.NDArray[np.float64]


def with_holes(outer: Sequence[Ring], holes: Sequence[Ring]) -> list[list[Ring]]:
    """Return each outer ring followed by its holes. A hole belongs to the smallest ring around it."""
    parts = [[ring] for ring in outer]
    areas = [area(ring) for ring in outer]
    rings = _Rings(outer)
    for hole in holes:
        around = rings.around(hole)
        if around:
            parts[min(around, key=lambda number: areas[number])].append(hole)
    return parts


def outermost(outer: Sequence[Ring]) -> list[Ring]:
    """Return the rings that lie in no other: a polygon of a tool without holes covers those within it."""
    rings = _Rings(outer)
    return [ring for number, ring in enumerate(outer) if not set(rings.around(ring)) - {number}]


def closed(ring: Ring) -> Ring:
    """Return a ring with its first point again at its end, as GeoJSON has it."""
    return [*ring, ring[0]]


def area(ring: Ring) -> float:
    """Return what a ring encloses, in square pixels."""
    x, y = np.asarray(ring, np.float64).T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


class _Rings:
    """Finds rings around another one. Their boxes decide first: a mask of noise has thousands of rings."""

    def __init__(self, rings: Sequence[Ring]) -> None:
        self._corners = [np.asarray(ring, np.float64) for ring in rings]
        self._low = np.array([corners.min(axis=0) for corners in self._corners]).reshape(-1, 2)
        self._high = np.array([corners.max(axis=0) for corners in self._corners]).reshape(-1, 2)

    def around(self, ring: Ring) -> list[int]:
        """Return the numbers of the rings around a ring; its own, too, if it is one of them."""
        points = np.asarray(ring, np.float64)
        boxed = (self._low <= points.min(axis=0)).all(axis=1) & (self._high >= points.max(axis=0)).all(axis=1)
        return [int(number) for number in np.flatnonzero(boxed) if _is_inside(points, self._corners[number])]


def _is_inside(points: Floats, corners: Floats) -> bool:
    """Whether most points of a ring lie in another, by the number of edges to the left of each.

    Most and not one: rounding can put single points of a hole onto the ring around it.
    """
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
