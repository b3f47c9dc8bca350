"""Thins outlines by a fraction of their own length, so that one fraction suits small objects and large ones.

Does not know which tool asks for it.
"""

from collections.abc import Sequence

import numpy as np

from model.masks.simplifying import simplify

Ring = list[list[float]]


def thin(rings: Sequence[Ring], *, fraction: float) -> list[Ring]:
    """Remove points of each ring that lie within `fraction` of its length of the result; at least three stay.

    Coordinates have two decimals, before and after. The first point is not repeated at the end. 0 removes none.
    """
    if not fraction or not rings:
        return list(rings)
    points = [np.asarray(ring, np.float64) for ring in rings]
    tolerances = [np.full(len(ring), fraction * _length(ring)) for ring in points]
    kept = simplify(points, tolerances, uncrossed=True)
    return [ring[stays].round(2).tolist() for ring, stays in zip(points, kept, strict=True)]


def _length(ring: np.ndarray) -> float:
    along = np.diff(ring, axis=0, append=ring[:1])
    return float(np.hypot(along[:, 0], along[:, 1]).sum())
