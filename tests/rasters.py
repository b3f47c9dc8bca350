"""Polygons drawn to pixels, what they may differ by from their mask, and masks that are hard to outline.

Does not know which outlines are tested: the server's, the client's and the page's all are.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
_SQUARE = np.ones((3, 3), bool)
_EDGES_AT_ONCE = 4096


def rasterised(
    rings: Iterable[Sequence[Sequence[float]] | npt.NDArray[np.float64]], size: tuple[int, int]
) -> Mask:
    """Return pixels (height, width) whose centre lies inside, by the even-odd rule."""
    height, width = size
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    crossings = np.zeros((height, width + 1), int)  # by row, and by how many centres of pixels lie left of it
    for ring in rings:
        points = np.asarray(ring, np.float64)
        for part in range(0, len(points), _EDGES_AT_ONCE):
            edges = np.arange(part, min(part + _EDGES_AT_ONCE, len(points)))
            (x0, y0), (x1, y1) = points[edges].T, points[(edges + 1) % len(points)].T
            rows, edge = np.nonzero((y0 <= y[:, np.newaxis]) != (y1 <= y[:, np.newaxis]))
            along = (y[rows] - y0[edge]) / (y1[edge] - y0[edge])
            where = x0[edge] + along * (x1[edge] - x0[edge])
            np.add.at(crossings, (rows, np.searchsorted(x, where)), 1)
    right_of = crossings[:, ::-1].cumsum(axis=1)[:, ::-1]
    return np.asarray(right_of[:, 1:] % 2 == 1)


def beyond(drawn: Mask, mask: Mask, *, reach: int) -> int:
    """Return how many pixels of one differ and lie more than `reach` pixels from any pixel like them in the other.

    Counts both ways, for object and background, so that what is lost counts as well as what is added. Outside the
    picture is background.
    """
    if np.array_equal(drawn, mask):
        return 0
    drawn, mask = np.pad(drawn, reach), np.pad(mask, reach)
    pairs = ((drawn, mask), (mask, drawn), (~drawn, ~mask), (~mask, ~drawn))
    return sum(
        int((one & ~ndimage.binary_dilation(other, _SQUARE, iterations=reach)).sum()) for one, other in pairs
    )


def assert_proper(rings: Iterable[Sequence[Sequence[float]]]) -> None:
    """Check that each ring has three different points, none of them twice in a row, and an area."""
    for ring in rings:
        assert len({tuple(point) for point in ring}) >= 3
        assert all(tuple(one) != tuple(other) for one, other in zip(ring, [*ring[1:], ring[0]], strict=True))
        assert signed_area(ring) != 0


def signed_area(ring: Sequence[Sequence[float]] | npt.NDArray[np.float64]) -> float:
    """Return the area within a ring, positive if it runs clockwise on the screen."""
    points = np.asarray(ring, np.float64)
    (x, y), (next_x, next_y) = points.T, np.concatenate([points[1:], points[:1]]).T
    return float((x * next_y - next_x * y).sum() / 2)


def _drawn(*rows: str) -> Mask:
    return np.array([[cell == "#" for cell in row] for row in rows])


def _by_distance(low: float, high: float, side: int = 48) -> Mask:
    y, x = np.mgrid[:side, :side]
    distance = np.hypot(x - side * 0.45, y - side * 0.52)
    return (distance >= low) & (distance < high)


def _wedge() -> Mask:
    """A disc with a tail that becomes one pixel wide."""
    y, x = np.mgrid[:40, :90]
    return (np.hypot(x - 15, y - 20) < 12) | ((np.abs(y - 20) <= (88 - x) / 14) & (x < 88))


HARD: dict[str, Mask] = {
    "nothing": np.zeros((5, 7), bool),
    "everything": np.ones((5, 7), bool),
    "a picture of one pixel": np.ones((1, 1), bool),
    "one pixel": np.pad(np.ones((1, 1), bool), 4),
    "one pixel in each corner": _drawn("#...#", ".....", "#...#"),
    "a row": np.pad(np.ones((1, 30), bool), 3),
    "a column": np.pad(np.ones((30, 1), bool), 3),
    "a row along the border": np.pad(np.ones((1, 9), bool), ((0, 3), (2, 2))),
    "a picture of one row": np.array([[c == "#" for c in "##.#..####.#"]]),
    "diagonal neighbours": _drawn("....", ".#..", "..#.", "...."),
    "a diagonal": np.eye(14, dtype=bool),
    "a staircase": np.eye(20, dtype=bool) | np.eye(20, k=1, dtype=bool),
    "a checkerboard": np.indices((9, 8)).sum(axis=0) % 2 == 0,
    "a hole of one pixel": ~np.pad(np.ones((1, 1), bool), 3),
    "a hole of one pixel in a small square": np.pad(_drawn("###", "#.#", "###"), 2),
    "holes that touch by a corner": ~np.pad(np.eye(3, dtype=bool), 2),
    "a hole on the border": ~np.pad(np.ones((1, 1), bool), ((0, 4), (3, 3))),
    "a hole that meets the outside at a corner": _drawn("......", ".####.", ".#..#.", ".#..#.", ".###..", "......"),
    "a grid": (np.indices((15, 16)) % 3 == 0).any(axis=0),
    "stripes": np.arange(21)[:, np.newaxis] % 2 * np.ones((1, 30), int) == 1,
    "a thin ring": _by_distance(18, 19.2),
    "rings within rings": _by_distance(3, 5) | _by_distance(8, 13) | _by_distance(14, 15),
    "a disc": _by_distance(-1, 18.3),
    "a wedge": _wedge(),
    "a slope": np.tri(30, dtype=bool),
    "a flat slope": np.arange(60)[np.newaxis] / 7 > np.arange(12)[:, np.newaxis],
    "an island in a hole": _by_distance(-1, 2) | _by_distance(6, 16),
}  # fmt: skip


def ragged(seed: int) -> Mask:
    """Return a random mask: noise from sparse to dense, or blobs with ragged borders, of random size."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 40, 2)
    noise = random.random((height, width))
    if seed % 2:
        noise = ndimage.gaussian_filter(noise, random.uniform(0.5, 3)) + 0.02 * random.random((height, width))
        return np.asarray(noise > np.quantile(noise, random.random()))
    return np.asarray(noise < random.choice([0.02, 0.3, 0.5, 0.7, 0.98]))
