"""Simplifies rings: Douglas and Peucker's algorithm, on all rings at once.

Does not know about masks. From D. Douglas and T. Peucker, "Algorithms for the reduction of the number of points
required to represent a digitized line or its caricature", 1973.
"""

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


def simplify(rings: list[Ring], tolerance: float) -> list[Ring]:
    """Remove points of closed rings (n, 2), first point not repeated, that lie within `tolerance` of the
    result.

    The result is a selection of the points, in order, with at least three of each ring, so no ring vanishes.
    Rings that are closer than the tolerance may touch or cross afterwards.
    """
    if not rings:
        return []
    sizes = np.array([len(ring) + 1 for ring in rings])
    points = np.concatenate([np.concatenate((ring, ring[:1])) for ring in rings])
    ring_of_points = np.repeat(np.arange(len(rings)), sizes)
    ends = np.cumsum(sizes)
    firsts = ends - sizes
    kept = np.zeros(len(points), dtype=bool)
    kept[firsts] = kept[ends - 1] = True
    for _ in range(
        2
    ):  # the point farthest from the first, then the one farthest from the chord between these
        _keep_farthest(points, kept, np.flatnonzero(~kept), groups=ring_of_points, tolerance=-1.0)
    undecided = np.flatnonzero(~kept)
    while undecided.size:
        chords = np.cumsum(kept)
        undecided = _keep_farthest(points, kept, undecided, groups=chords, tolerance=tolerance)
    kept[ends - 1] = False  # the first points again
    return [points[first:end][kept[first:end]] for first, end in zip(firsts, ends, strict=True)]


def _keep_farthest(
    points: Ring, kept: Booleans, undecided: Integers, *, groups: Integers, tolerance: float
) -> Integers:
    """Keep the point of each undecided group that is farthest from its chord. Return the points still
    undecided.

    Groups that lie within `tolerance` of their chords are dropped for good. Chords join
    neighbours among `kept`, `undecided` ascends, and so do `groups`, which are those of all points.
    """
    if not undecided.size:
        return undecided
    corners = np.flatnonzero(kept)
    chord = np.cumsum(kept)[undecided] - 1
    distances = _distances(points[undecided], points[corners[chord]], points[corners[chord + 1]])
    begins = np.flatnonzero(np.diff(groups[undecided], prepend=-1))
    farthest = np.repeat(np.maximum.reduceat(distances, begins), np.diff(begins, append=undecided.size))
    far = np.flatnonzero((distances == farthest) & (farthest > tolerance))
    _, one_of_each = np.unique(groups[undecided[far]], return_index=True)
    kept[undecided[far[one_of_each]]] = True
    return undecided[(farthest > tolerance) & ~kept[undecided]]


def _distances(points: Ring, starts: Ring, stops: Ring) -> Ring:
    """From points (n, 2) to segments (n, 2), (n, 2): (n,)."""
    along = stops - starts
    lengths = np.maximum((along**2).sum(axis=1), np.finfo(np.float64).tiny)  # of a chord that is one point
    places = (((points - starts) * along).sum(axis=1) / lengths).clip(0, 1)
    return np.hypot(*(points - starts - places[:, np.newaxis] * along).T)
