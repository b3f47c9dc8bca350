"""Thinning by a fraction of the length."""

import numpy as np
import pytest

from app.codecs.thinning import thin


def circle(radius: float, points: int = 720) -> list[list[float]]:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return [[float(x), float(y)] for x, y in zip(radius * np.cos(angle), radius * np.sin(angle), strict=True)]


def test_the_same_fraction_leaves_as_many_points_of_a_small_object_as_of_a_large_one() -> None:
    small, large = thin([circle(10), circle(1000)], fraction=0.001)
    assert len(small) == len(large) < 100
    assert np.abs(np.hypot(*np.array(large).T) - 1000).max() < 0.01  # a selection of the points
    (coarse,) = thin([circle(1000)], fraction=0.01)
    assert 3 <= len(coarse) < len(large)


def test_the_result_has_two_decimals_as_the_rings_have() -> None:
    ring = [[round(x, 2), round(y, 2)] for x, y in circle(77.7)]
    (thinned,) = thin([ring], fraction=0.003)
    assert all(point in ring for point in thinned)


@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_three_points_stay(fraction: float) -> None:
    assert len(thin([circle(50)], fraction=fraction)[0]) >= 3


def test_nothing_is_thinned_by_zero_and_nothing_is_nothing() -> None:
    ring = circle(5)
    assert thin([ring], fraction=0) == [ring]
    assert thin([], fraction=0.1) == []
