"""Joins rings to one, for formats in which a ring stands for a whole object.

Does not know the formats.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sam2_client.outlines import Outlines, Ring
from sam2_client.simplifying import area


def joined(rings: Sequence[Ring]) -> Ring:
    """Join rings to one by lines there and back, which enclose nothing.

    By the even-odd rule the result has the pixels of all rings: holes stay holes.
    """
    whole = np.array(rings[0])
    for ring in rings[1:]:
        points = np.array(ring)
        to = _nearest(whole, points[0])
        turned = np.roll(points, -_nearest(points, whole[to]), axis=0)
        back = np.stack((turned[0], whole[to]))
        if (turned[0] == whole[to]).all():
            turned, back = turned[1:], turned[:1]
        whole = np.concatenate((whole[: to + 1], turned, back, whole[to + 1 :]))
    return [(x, y) for x, y in whole.tolist()]


def parts(exact: Outlines) -> list[list[int]]:
    """Return for each outer ring the places of its holes, in the order of both lists of outlines as traced."""
    found: list[list[int]] = [[] for _ in exact.polygons]
    if not exact.holes:
        return found
    areas = np.array([area(ring) for ring in exact.polygons])
    x, top, bottom, owner = _upright_edges(exact.polygons)
    for place, ring in enumerate(exact.holes):
        left, y = min(
            ring, key=lambda corner: (corner[1], corner[0])
        )  # of its top edge; the object lies above
        crossed = owner[(x > left) & (top < y) & (y <= bottom)]
        around = np.flatnonzero(np.bincount(crossed, minlength=len(areas)) % 2)
        found[around[areas[around].argmin()]].append(place)
    return found


def _upright_edges(rings: Sequence[Ring]) -> tuple[npt.NDArray[np.int64], ...]:
    """Return x, upper y, lower y and ring of each vertical edge."""
    starts = np.concatenate([np.array(ring) for ring in rings])
    stops = np.concatenate([np.roll(np.array(ring), -1, axis=0) for ring in rings])
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    upright = starts[:, 0] == stops[:, 0]
    ends = np.sort(np.stack((starts[upright, 1], stops[upright, 1])), axis=0)
    return starts[upright, 0], ends[0], ends[1], owner[upright]


def _nearest(points: npt.NDArray[np.int64], to: npt.NDArray[np.int64]) -> int:
    """Return the place of the point (n, 2) nearest to another."""
    return int(((points - to) ** 2).sum(axis=1).argmin())
