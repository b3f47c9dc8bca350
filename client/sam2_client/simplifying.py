"""Simplifies the outlines of a mask without losing an object or a hole.

Does not know how outlines are traced.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sam2_client.outlines import Outlines, Ring

_FAR = 1 << 30
"""The width of background that reaches the end of the mask."""


def simplify(
    outlines: Outlines, mask: npt.NDArray[np.bool_], *, offset: tuple[int, int], tolerance: float
) -> Outlines:
    """Return the outlines of `mask` at `offset` (x, y) with fewer of their points.

    Points go as long as the outline moves by at most `tolerance` pixels, and by less than half of what is narrow:
    the object or the background beside it. At least three points of each ring stay.
    """
    across_rows, across_columns = _widths(mask), _widths(mask.T)

    def simple(rings: list[Ring]) -> list[Ring]:
        found = []
        for ring in rings:
            corners = np.array(ring, np.int64) - np.array(offset, np.int64)
            narrowest = _narrowest(corners, across_rows, across_columns)
            # Both sides of what is narrow move, and slopes by root 2 along an axis.
            room = 0.32 * np.maximum(np.minimum(narrowest, np.roll(narrowest, 1)) - 1, 1)
            found.append(_simplified(ring, np.minimum(room, tolerance)))
        return found

    return Outlines(simple(outlines.polygons), simple(outlines.holes))


def _widths(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return for each edge between pixels of one column what ends there: the object's pixels or the background's,
    the fewer. Shape (height + 1, width), row 0 above the mask; without meaning where neighbours are equal.
    """
    edges = np.diff(np.pad(mask, ((1, 1), (0, 0))).T, axis=1)  # (width, height + 1)
    places = np.flatnonzero(edges)
    columns = places // edges.shape[1]
    between = np.where(columns[1:] == columns[:-1], np.diff(places), _FAR)
    widths = np.full(edges.size, _FAR)
    outside = [_FAR] * min(1, places.size)
    widths[places] = np.minimum(np.concatenate((outside, between)), np.concatenate((between, outside)))
    return np.ascontiguousarray(widths.reshape(edges.shape).T)


def _narrowest(
    corners: npt.NDArray[np.int64],
    across_rows: npt.NDArray[np.int64],
    across_columns: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Return the least width along the edge from each corner (n, 2) to the next."""
    following = np.roll(corners, -1, axis=0)
    low, high = np.minimum(corners, following), np.maximum(corners, following)
    level = low[:, 1] == high[:, 1]
    narrowest = np.empty(len(corners), np.int64)
    for edges, widths, along in ((level, across_rows, 0), (~level, across_columns, 1)):
        lines, begins, ends = low[edges, 1 - along], low[edges, along], high[edges, along]
        firsts, lengths = lines * widths.shape[1] + begins, ends - begins
        starts = np.cumsum(lengths) - lengths
        every = np.repeat(firsts - starts, lengths) + np.arange(lengths.sum())
        narrowest[edges] = np.minimum.reduceat(widths.ravel()[every], starts)
    return narrowest


def _simplified(ring: Ring, tolerances: npt.NDArray[np.float64]) -> Ring:
    """Remove points of a ring that lie within their tolerances of the remaining ring. At least three remain.

    From D. Douglas and T. Peucker, "Algorithms for the reduction of the number of points required to represent a
    digitized line or its caricature", 1973.
    """
    points = np.array([*ring, ring[0]], np.float64)
    last = len(ring)
    opposite = int(_distances(points, points[0], points[0]).argmax())
    aside = int(_distances(points, points[0], points[opposite]).argmax())
    kept = sorted({0, opposite, aside, last})
    pending = list(pairwise(kept))
    while pending:
        start, stop = pending.pop()
        if stop - start < 2:
            continue
        excess = (
            _distances(points[start + 1 : stop], points[start], points[stop]) / tolerances[start + 1 : stop]
        )
        farthest = int(excess.argmax())
        if excess[farthest] > 1:
            between = start + 1 + farthest
            kept.append(between)
            pending += [(start, between), (between, stop)]
    simple = [ring[at] for at in sorted(kept) if at != last]
    # A ring that crosses itself once points are left out can end with an area of zero.
    return simple if area(simple) * area(ring) > 0 else ring


def area(ring: Ring) -> float:
    """Return the area within a ring, positive if it runs clockwise on the screen. By Gauss's formula."""
    x, y = np.array(ring).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _distances(
    points: npt.NDArray[np.float64], start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the distances (n,) from points (n, 2) to the segment from `start` to `stop`."""
    along = stop - start
    squared = float(along @ along)
    places = ((points - start) @ along / squared).clip(0, 1) if squared else np.zeros(len(points))
    x, y = (points - start - places[:, np.newaxis] * along).T
    distances: npt.NDArray[np.float64] = np.hypot(x, y)
    return distances
