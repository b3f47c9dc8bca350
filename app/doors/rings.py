"""Outlines as other tools want them: outer rings with the holes that lie in them, or outermost rings alone.

Does not know about masks.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from app.scheduling.abandoned import check_wanted

Ring: TypeAlias = list[list[float]]
"""Points [x, y]; the first is not repeated at the end."""
Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

_SAMPLED = 16
"""Points of a ring, about, that are looked for in another one."""
_AT_ONCE = 2**17
"""Pairs of a point and an edge that are compared in one step."""


def with_holes(outer: Sequence[Ring], holes: Sequence[Ring]) -> list[list[Ring]]:
    """Return each outer ring followed by its holes. A hole belongs to the smallest ring around it."""
    parts = [[ring] for ring in outer]
    areas = [area(ring) for ring in outer]
    for hole, around in zip(holes, _around(outer, holes), strict=True):
        if around:
            parts[min(around, key=lambda number: areas[number])].append(hole)
    return parts


def outermost(outer: Sequence[Ring]) -> list[Ring]:
    """Return the rings that lie in no other: a polygon of a tool without holes covers those within it."""
    return [ring for ring, around in zip(outer, _around(outer, outer), strict=True) if not around]


def closed(ring: Ring) -> Ring:
    """Return a ring with its first point again at its end, as GeoJSON has it."""
    return [*ring, ring[0]]


def area(ring: Ring) -> float:
    """Return what a ring encloses, in square pixels."""
    x, y = np.asarray(ring, np.float64).T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _around(outer: Sequence[Ring], rings: Sequence[Ring]) -> list[list[int]]:
    """Return for each ring the numbers of the outer rings around it.

    A mask of noise has thousands of rings, and one has most of all corners. So boxes decide first, and then all
    rings are looked for in an outer one at once.
    """
    found: list[list[int]] = [[] for _ in rings]
    sampled = [np.asarray(ring, np.float64) for ring in rings]
    low = np.array([corners.min(axis=0) for corners in sampled]).reshape(-1, 2)
    high = np.array([corners.max(axis=0) for corners in sampled]).reshape(-1, 2)
    sampled = [corners[:: max(1, len(corners) // _SAMPLED)] for corners in sampled]
    for number, ring in enumerate(outer):
        check_wanted()
        corners = np.asarray(ring, np.float64)
        boxed = (corners.min(axis=0) <= low).all(axis=1) & (corners.max(axis=0) >= high).all(axis=1)
        within = [at for at in np.flatnonzero(boxed).tolist() if rings[at] is not ring]
        if not within:
            continue
        inside = _inside(np.concatenate([sampled[at] for at in within]), corners)
        begins = np.cumsum([0, *(len(sampled[at]) for at in within[:-1])])
        for at, points in zip(within, np.add.reduceat(inside.astype(np.int64), begins).tolist(), strict=True):
            # Most and not one: rounding can put single points of a hole onto the ring around it.
            if 2 * points > len(sampled[at]):
                found[at].append(number)
    return found


def _inside(points: Floats, corners: Floats) -> npt.NDArray[np.bool_]:
    """Whether points (n, 2) lie in a ring, by the number of its edges to the left of each."""
    starts, ends = corners, np.roll(corners, -1, axis=0)
    low, high = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
    crossed = np.zeros(len(points), np.int64)
    # Most edges are short, so only few can be at a point's height. Long ones would spoil that for all.
    sizes = np.ceil(np.log2(np.maximum(high - low, 1.0)))
    for size in np.unique(sizes):
        edges = np.flatnonzero((sizes == size) & (high > low))
        edges = edges[np.argsort(low[edges])]
        begins = np.searchsorted(low[edges], points[:, 1] - 2.0**size, side="left")
        counts = np.searchsorted(low[edges], points[:, 1], side="right") - begins
        for some in _groups(counts):
            number = np.repeat(some, counts[some])
            each = np.arange(len(number)) - np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
            edge = edges[begins[number] + each]
            x, y = points[number].T
            (x0, y0), (x1, y1) = starts[edge].T, ends[edge].T
            with np.errstate(divide="ignore", invalid="ignore"):
                left = (y < high[edge]) & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x)
            crossed += np.bincount(number[left], minlength=len(points))
    return (crossed % 2).astype(np.bool_)


def _groups(counts: Integers) -> Iterator[Integers]:
    """Yield the numbers of all points in groups that have about _AT_ONCE edges."""
    groups = np.cumsum(counts) // _AT_ONCE
    for group in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(groups)) + 1):
        check_wanted()
        yield group
