"""Outlines of masks: polygons that cover what the mask covers, in proper rings within the picture."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from model.masks.runs import polygons, runs
from tests.model.masks.logit_maps import Map, Size, blobs, empty, full, ring


def rasterised(rings: list[npt.NDArray[np.float64]], size: Size) -> npt.NDArray[np.bool_]:
    """Pixels whose centre lies inside, by the even-odd rule."""
    height, width = size
    x = np.arange(width) + 0.5
    y = (np.arange(height) + 0.5)[:, np.newaxis]
    inside = np.zeros(size, dtype=bool)
    for points in rings:
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if y0 != y1:
                crossing = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
                inside ^= ((y0 <= y) != (y1 <= y)) & (x < crossing)
    return inside


def signed_area(points: npt.NDArray[np.float64]) -> float:
    x, y = points.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@pytest.mark.parametrize("make", [blobs, ring, full, empty])
@pytest.mark.parametrize("size", [(200, 301), (90, 64)])
def test_polygons_cover_the_mask(make: Callable[[int, int], Map], size: Size) -> None:
    logits = make(64, 64)
    height, width = size
    mask = runs(logits, height=height, width=width)
    outline = polygons(logits, height=height, width=width)
    drawn = rasterised(outline.outer + outline.holes, size)
    assert (drawn & mask.to_array()).sum() >= 0.99 * (drawn | mask.to_array()).sum()
    length = sum(
        np.linalg.norm(np.diff(r, axis=0, append=r[:1]), axis=1).sum() for r in outline.outer + outline.holes
    )
    area = sum(map(signed_area, outline.outer)) + sum(map(signed_area, outline.holes))
    assert area == pytest.approx(mask.area, abs=0.05 * length + 1e-6)


def test_a_hole_is_a_hole() -> None:
    outline = polygons(ring(64, 64), height=100, width=150)
    assert len(outline.outer) == len(outline.holes) == 1
    assert signed_area(outline.outer[0]) > 0 > signed_area(outline.holes[0])
    middle = [75, 50]
    assert outline.outer[0].mean(axis=0) == pytest.approx(middle, abs=1)
    assert outline.holes[0].mean(axis=0) == pytest.approx(middle, abs=1)
    # The ring's edges lie at 0.2 and 0.4 of the picture from its middle.
    assert np.abs(outline.holes[0] - middle).max(axis=0) == pytest.approx([30, 20], abs=0.5)
    assert np.abs(outline.outer[0] - middle).max(axis=0) == pytest.approx([60, 40], abs=0.5)


def test_the_full_mask_is_the_rectangle() -> None:
    outline = polygons(full(16, 16), height=30, width=40)
    assert [r.tolist() for r in outline.outer] == [[[0, 0], [40, 0], [40, 30], [0, 30]]]
    assert outline.holes == []


def test_the_empty_mask_has_no_outline() -> None:
    outline = polygons(empty(16, 16), height=30, width=40)
    assert outline.outer == outline.holes == []


def test_an_object_over_the_border_is_closed_along_it() -> None:
    """The left half: logits fall from 1 to -1 half-way between samples 7 and 8 of 16."""
    logits = np.repeat(np.where(np.arange(16) < 8, 1, -1)[np.newaxis], 16, axis=0).astype(np.float32)
    (points,) = polygons(logits, height=30, width=37).outer
    assert {tuple(p) for p in points[(points[:, 0] == 0)]} == {(0, 0), (0, 30)}
    assert points[:, 0].max() == pytest.approx(18.5)
    assert points[:, 1].min() == 0
    assert points[:, 1].max() == 30


def test_rings_are_proper_and_within_the_picture() -> None:
    """Small whole numbers: many logits are zero, so that borders run through samples and meet there."""
    random = np.random.default_rng(3)
    for _ in range(500):
        h, w, height, width = random.integers(1, [7, 7, 60, 60]).tolist()
        logits = random.integers(-2, 3, (h, w)).astype(np.float32)
        outline = polygons(logits, height=height, width=width)
        for points in outline.outer + outline.holes:
            assert len({tuple(p) for p in points}) >= 3
            assert (points != np.roll(points, 1, axis=0)).any(axis=1).all()
            assert points.min() >= 0
            assert (points <= [width, height]).all()
            for axis, side in enumerate((width, height)):
                for border in (0, side):
                    on = points[:, axis] == border
                    assert not (on & np.roll(on, 1) & np.roll(on, 2)).any()
