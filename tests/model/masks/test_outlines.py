"""Outlines of masks: polygons that cover what the mask covers, in proper rings within the picture."""

from collections.abc import Callable

import numpy as np
import pytest

from model.masks.outlines import Outline, outline
from model.masks.runs import runs
from tests.model.masks.logit_maps import MAPS, Map, Size, blobs, empty, full, ring
from tests.rasters import HARD, Mask, assert_proper, beyond, ragged, rasterised, signed_area


def polygons(logits: Map, *, height: int, width: int, simplify: float = 0) -> Outline:
    return outline(logits, runs(logits, height=height, width=width), tolerance=simplify)


@pytest.mark.parametrize("make", [blobs, ring, full, empty])
@pytest.mark.parametrize("size", [(200, 301), (90, 64)])
def test_polygons_cover_the_mask(make: Callable[[int, int], Map], size: Size) -> None:
    logits = make(64, 64)
    height, width = size
    mask = runs(logits, height=height, width=width)
    rings = polygons(logits, height=height, width=width)
    drawn = rasterised(rings.outer + rings.holes, size)
    assert (drawn & mask.to_array()).sum() >= 0.99 * (drawn | mask.to_array()).sum()
    length = sum(
        np.linalg.norm(np.diff(r, axis=0, append=r[:1]), axis=1).sum() for r in rings.outer + rings.holes
    )
    area = sum(map(signed_area, rings.outer)) + sum(map(signed_area, rings.holes))
    assert area == pytest.approx(mask.area, abs=0.05 * length + 1e-6)


def test_a_hole_is_a_hole() -> None:
    rings = polygons(ring(64, 64), height=100, width=150)
    assert len(rings.outer) == len(rings.holes) == 1
    assert signed_area(rings.outer[0]) > 0 > signed_area(rings.holes[0])
    middle = [75, 50]
    for points in rings.outer + rings.holes:
        assert (points.min(axis=0) + points.max(axis=0)) / 2 == pytest.approx(middle, abs=0.5)
    # The ring's edges lie at 0.2 and 0.4 of the picture from its middle.
    assert np.abs(rings.holes[0] - middle).max(axis=0) == pytest.approx([30, 20], abs=0.5)
    assert np.abs(rings.outer[0] - middle).max(axis=0) == pytest.approx([60, 40], abs=0.5)


def test_the_full_mask_is_the_rectangle() -> None:
    rings = polygons(full(16, 16), height=30, width=40)
    assert [r.tolist() for r in rings.outer] == [[[0, 0], [40, 0], [40, 30], [0, 30]]]
    assert rings.holes == []


def test_the_empty_mask_has_no_outline() -> None:
    rings = polygons(empty(16, 16), height=30, width=40)
    assert rings.outer == rings.holes == []


def test_an_object_over_the_border_is_closed_along_it() -> None:
    """The left half: logits fall from 1 to -1 half-way between samples 7 and 8 of 16."""
    logits = np.repeat(np.where(np.arange(16) < 8, 1, -1)[np.newaxis], 16, axis=0).astype(np.float32)
    (points,) = polygons(logits, height=30, width=37).outer
    assert {tuple(p) for p in points[(points[:, 0] == 0)]} == {(0, 0), (0, 30)}
    assert points[:, 0].max() == pytest.approx(18.5, abs=0.021)  # a pixel's centre, which it keeps out
    assert points[:, 1].min() == 0
    assert points[:, 1].max() == 30


def test_rings_are_proper_and_within_the_picture() -> None:
    """Small whole numbers: many logits are zero, so that borders run through samples and meet there."""
    random = np.random.default_rng(3)
    for _ in range(500):
        h, w, height, width = random.integers(1, [7, 7, 60, 60]).tolist()
        logits = random.integers(-2, 3, (h, w)).astype(np.float32)
        rings = polygons(logits, height=height, width=width)
        for points in rings.outer + rings.holes:
            assert_proper([points.tolist()])
            assert points.min() >= 0
            assert (points <= [width, height]).all()
            for axis, side in enumerate((width, height)):
                for border in (0, side):
                    on = points[:, axis] == border
                    assert not (on & np.roll(on, 1) & np.roll(on, 2)).any()


def assert_faithful(logits: Map, size: Size, *, simplify: float) -> Mask:
    """Check that the polygons are the mask but for what `simplify` allows. Returns their pixels."""
    mask = runs(logits, height=size[0], width=size[1]).to_array()
    found = polygons(logits, height=size[0], width=size[1], simplify=simplify)
    rings = [points.tolist() for points in found.outer + found.holes]
    assert_proper(rings)
    assert bool(rings) == bool(mask.any()), "an empty mask has no ring, and every other mask has one"
    assert all(signed_area(points) > 0 for points in found.outer)
    assert all(signed_area(points) < 0 for points in found.holes)
    drawn = rasterised(rings, size)
    assert beyond(drawn, mask, reach=max(1, 1 + int(np.ceil(simplify - 1)))) == 0
    return drawn


SIMPLIFY = [0, 0.05, 0.5, 1, 2.5, 60]


@pytest.mark.parametrize("simplify", SIMPLIFY)
@pytest.mark.parametrize("name", HARD)
def test_polygons_of_hard_masks_are_the_masks(name: str, simplify: float) -> None:
    """Logits of the picture's own size: each pixel is as the drawing has it."""
    for inside, outside in ((1, -1), (9, -0.01), (0.01, -9)):
        logits = np.where(HARD[name], inside, outside).astype(np.float32)
        drawn = assert_faithful(logits, HARD[name].shape, simplify=simplify)
        if simplify <= 0.05 and inside == -outside:  # then the outline is not close to any centre
            assert np.array_equal(drawn, HARD[name])


@pytest.mark.parametrize("simplify", SIMPLIFY)
@pytest.mark.parametrize("size", [(200, 301), (48, 64), (12, 16), (3, 200), (1, 1), (250, 170)])
def test_polygons_are_the_masks_in_pictures_of_any_size(size: Size, simplify: float) -> None:
    """Pictures of fewer pixels than the logits, too: what falls between pixels is no object."""
    for make in MAPS:
        assert_faithful(make(64, 64), size, simplify=simplify)


@pytest.mark.parametrize("seed", range(60))
def test_polygons_of_random_masks_are_the_masks(seed: int) -> None:
    mask, random = ragged(seed), np.random.default_rng(seed)
    logits = (np.where(mask, 1, -1) * random.uniform(0.001, 5, mask.shape)).astype(np.float32)
    for simplify in SIMPLIFY:
        assert_faithful(logits, mask.shape, simplify=simplify)
        height, width = random.integers(1, 90, 2).tolist()
        assert_faithful(logits, (height, width), simplify=simplify)


def test_a_smooth_outline_takes_few_points() -> None:
    """Of 7,200 edges of pixels."""
    (outer,), (hole,) = (rings := polygons(ring(256, 256), height=1200, width=1800)).outer, rings.holes
    assert len(outer) + len(hole) < 900
