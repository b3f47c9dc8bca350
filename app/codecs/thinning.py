"""Thins an outline by a fraction of its own length, so that one fraction suits small objects and large ones.

Does not know which tool asks for it.
"""

import numpy as np

from model.masks.simplifying import simplify

Ring = list[list[float]]


def thin(ring: Ring, *, fraction: float) -> Ring:
    """Remove points of a ring that lie within `fraction` of its length of the result; at least three stay.

    The first point is not repeated at the end, in the ring and in the result. 0 removes none.
    """
    if not fraction:
        return ring
    points = np.asarray(ring, np.float64)
    length = float(np.hypot(*(np.roll(points, -1, axis=0) - points).T).sum())
    (thinned,) = simplify([points], fraction * length)
    return [[float(x), float(y)] for x, y in thinned]
