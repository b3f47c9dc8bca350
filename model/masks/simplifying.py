"""Simplifies rings: Douglas and Peucker's algorithm, on all rings at once, and a quick step before it.

Does not know about masks. From D. Douglas and T. Peucker, "Algorithms for the reduction of the number of points
required to represent a digitized line or its caricature", 1973.
"""

import numpy as np
import numpy.typing as npt

from model.masks.crossings import crossing

Ring = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


def simplify(rings: list[Ring], tolerances: list[Ring], *, uncrossed: bool = False) -> list[Booleans]:
    """Select points of closed rings (n, 2), first point not repeated; True (n,) for those that stay.

    Each point that goes lies within its own tolerance (n,), above 0, of the line between those that stay around
    it. At least three of each ring stay, so no ring vanishes. Rings that are closer than the tolerance may touch
    or cross afterwards, themselves and each other. With `uncrossed`, points stay where they would, so that rings
    that did not cross or touch before do not do so afterwards.
    """
    if not rings:
        return []
    sizes = np.array([len(ring) + 1 for ring in rings])
    points = np.concatenate([np.concatenate((ring, ring[:1])) for ring in rings])
    limits = np.concatenate([np.concatenate((tolerance, tolerance[:1])) for tolerance in tolerances])
    ring_of_points = np.repeat(np.arange(len(rings)), sizes)
    ends = np.cumsum(sizes)
    firsts = ends - sizes
    kept = np.zeros(len(points), dtype=bool)
    kept[firsts] = kept[ends - 1] = True
    # The point farthest from the first, then the one farthest from the chord between these.
    for _ in range(2):
        _keep_farthest(points, kept, np.flatnonzero(~kept), groups=ring_of_points)
    undecided = np.flatnonzero(~kept)
    while undecided.size:
        chords = np.cumsum(kept)
        undecided = _keep_farthest(points, kept, undecided, groups=chords, limits=limits)
    if uncrossed:
        _uncross(points, kept, ring_of_points)
    return [kept[first : end - 1] for first, end in zip(firsts, ends, strict=True)]


def halve(points: Ring, starts: Integers, *, tolerance: float) -> tuple[Booleans, Integers]:
    """Select points of closed rings that stay when every second one goes that lies on the line of its neighbours.

    The points (n, 2) of all rings stand one after the other; `starts` (rings + 1,) says where each begins. On the
    line is what lies within `tolerance`. Returns True (n,) for the points that stay, and the new starts. Costs
    little, and spares `simplify` most points of smooth rings. Rings of fewer than eight points stay as they are.
    """
    sizes = np.diff(starts)
    nth = np.arange(len(points)) - np.repeat(starts[:-1], sizes)
    of_size = np.repeat(sizes, sizes)
    second = np.flatnonzero((nth % 2 == 1) & (of_size >= 8))
    after = second + 1 - of_size[second] * (nth[second] + 1 == of_size[second])
    kept = np.ones(len(points), dtype=bool)
    kept[second] = _distances(points[second], points[second - 1], points[after]) > tolerance
    return kept, np.concatenate(([0], np.cumsum(kept)))[starts]


def _uncross(points: Ring, kept: Booleans, rings: Integers) -> None:
    """Keep the farthest of the points that chords left out which cross or touch others, until none does."""
    while True:
        corners = np.flatnonzero(kept)
        is_chord = np.diff(rings[corners]) == 0
        firsts, lasts = corners[:-1][is_chord], corners[1:][is_chord]
        wide = lasts - firsts > 1
        crossed = crossing(points[firsts], points[lasts], wide) & wide
        if not crossed.any():
            return
        of_chord = np.zeros(len(points), dtype=bool)
        of_chord[firsts[crossed]] = True
        chords = np.cumsum(kept, dtype=np.int64)
        undecided = np.flatnonzero(of_chord[corners][chords - 1] & ~kept)
        _keep_farthest(points, kept, undecided, groups=chords)


def _keep_farthest(
    points: Ring,
    kept: Booleans,
    undecided: Integers,
    *,
    groups: Integers,
    limits: Ring | None = None,
) -> Integers:
    """Keep the point of each undecided group that is farthest from its chord. Return the points still
    undecided.

    With `limits`, distances count in these, and groups that lie within them are dropped for good. Chords join
    neighbours among `kept`, `undecided` ascends, and so do `groups`; `groups` and `limits` are those of all points.
    """
    if not undecided.size:
        return undecided
    corners = np.flatnonzero(kept)
    chord = np.cumsum(kept)[undecided] - 1
    distances = _distances(points[undecided], points[corners[chord]], points[corners[chord + 1]])
    least = -1.0
    if limits is not None:
        distances, least = distances / limits[undecided], 1.0
    begins = np.flatnonzero(np.diff(groups[undecided], prepend=-1))
    farthest = np.repeat(np.maximum.reduceat(distances, begins), np.diff(begins, append=undecided.size))
    far = np.flatnonzero((distances == farthest) & (farthest > least))
    _, one_of_each = np.unique(groups[undecided[far]], return_index=True)
    kept[undecided[far[one_of_each]]] = True
    return undecided[(farthest > least) & ~kept[undecided]]


def _distances(points: Ring, starts: Ring, stops: Ring) -> Ring:
    """From points (n, 2) to segments (n, 2), (n, 2): (n,)."""
    along = stops - starts
    (x, y), (along_x, along_y) = (points - starts).T, along.T
    lengths = np.maximum(along_x**2 + along_y**2, np.finfo(np.float64).tiny)  # of a chord that is one point
    places = ((x * along_x + y * along_y) / lengths).clip(0, 1)
    return np.hypot(x - places * along_x, y - places * along_y)
