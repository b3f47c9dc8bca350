"""Simplified rings: fewer points, each one of the ring's own, and none left out that lies farther than promised."""

import math

import numpy as np
import pytest

from model.masks import simplifying
from model.masks.simplifying import halve


def simplify(rings: list[np.ndarray], tolerance: float) -> list[np.ndarray]:
    kept = simplifying.simplify(rings, [np.full(len(ring), tolerance) for ring in rings])
    return [ring[stays] for ring, stays in zip(rings, kept, strict=True)]


def circle(points: int, *, radius: float = 100, noise: float = 0) -> np.ndarray:
    """A ring of so many points, those of noise a little off."""
    angles = np.arange(points) * 2 * math.pi / points
    off = radius + noise * np.random.default_rng(points).normal(size=points)
    return np.stack((off * np.cos(angles), off * np.sin(angles)), axis=1)


def distance(point: np.ndarray, start: np.ndarray, stop: np.ndarray) -> float:
    """From a point to a segment."""
    along = stop - start
    length = along @ along
    place = min(1.0, max(0.0, (point - start) @ along / length)) if length else 0.0
    return float(np.hypot(*(point - start - place * along)))


@pytest.mark.parametrize("tolerance", [0.1, 1, 10, 1000])
def test_all_points_lie_within_the_tolerance_of_what_is_left(tolerance: float) -> None:
    rings = [circle(500), circle(97, noise=3), circle(3), circle(40, radius=0.01), circle(300, noise=40)]
    for ring, simple in zip(rings, simplify(rings, tolerance), strict=True):
        assert 3 <= len(simple) <= len(ring)
        places = [next(i for i, p in enumerate(ring) if (p == corner).all()) for corner in simple]
        assert places == sorted(set(places))
        for start, stop in zip(places, [*places[1:], places[0] + len(ring)], strict=True):
            chord = ring[start], ring[stop % len(ring)]
            for between in range(start + 1, stop):
                assert distance(ring[between % len(ring)], *chord) <= tolerance + 1e-9


def test_a_ring_alone_is_simplified_as_among_others() -> None:
    rings = [circle(80, noise=5), circle(50, noise=9), circle(5)]
    together = simplify(rings, 4)
    for ring, simple in zip(rings, together, strict=True):
        assert np.array_equal(simplify([ring], 4)[0], simple)
    assert simplify([], 4) == []


def test_a_square_with_points_along_its_sides_is_left_with_its_corners() -> None:
    side = np.arange(10.0)
    ring = np.concatenate(
        [
            np.stack((side, 0 * side), 1),
            np.stack((0 * side + 10, side), 1),
            np.stack((10 - side, 0 * side + 10), 1),
            np.stack((0 * side, 10 - side), 1),
        ]
    )
    assert simplify([ring], 0.01)[0].tolist() == [[0, 0], [10, 0], [10, 10], [0, 10]]


def test_a_long_outline_takes_few_points() -> None:
    (simple,) = simplify([circle(20_000)], 1.0)
    assert 16 <= len(simple) <= 64


def test_a_point_with_a_small_tolerance_of_its_own_stays() -> None:
    ring = circle(400)
    tolerances = np.full(400, 50.0)
    tolerances[300] = 0.001
    (kept,) = simplifying.simplify([ring], [tolerances])
    corners = ring[kept]
    nearest = min(
        distance(ring[300], start, stop)
        for start, stop in zip(corners, np.roll(corners, -1, axis=0), strict=True)
    )
    assert nearest <= 0.001
    assert kept.sum() < 30


def test_halving_leaves_out_what_lies_between_its_neighbours() -> None:
    bent = [[0, 0], [1, 0], [2, 0], [3, 0.4], [4, 0], [4, 2], [4, 4], [2, 4], [0, 4], [0, 2]]
    small = [[9, 9], [10, 9], [11, 9], [11, 11]]
    kept, starts = halve(np.array(bent + small, float), np.array([0, 10, 14]), tolerance=0.2)
    assert np.flatnonzero(~kept[:10]).tolist() == [1, 5, 7, 9]
    assert kept[10:].all()
    assert starts.tolist() == [0, 6, 10]
