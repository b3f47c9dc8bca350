"""Masks from logits: the pixels of interpolate-and-threshold, and what is said of a mask beside its outline."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from pycocotools import mask as coco

from model.masks.outlines import outline
from model.masks.runs import Runs, area, runs, stability
from tests.model.masks.logit_maps import MAPS, Map, Size, blobs, empty, full, noise, ring, zero


def upsampled(logits: Map, size: Size) -> Map:
    tensor = torch.from_numpy(logits)[np.newaxis, np.newaxis]
    interpolated: Map = F.interpolate(tensor, size, mode="bilinear", align_corners=False)[0, 0].numpy()
    return interpolated


def assert_same_pixels(logits: Map, size: Size) -> Runs:
    """Against torch pixel by pixel, and against pycocotools in runs, area and box; returns the runs."""
    height, width = size
    mask = runs(logits, height=height, width=width)
    expected = upsampled(logits, size)
    wrong = mask.to_array() != (expected > 0)
    # Zero to within rounding: a processor without fused multiply-add may round to the other side.
    assert not (wrong & (np.abs(expected) > 1e-6 * np.abs(logits).max())).any()
    theirs = coco.encode(np.asfortranarray(mask.to_array() if wrong.any() else expected > 0).view(np.uint8))
    ours = coco.frPyObjects({"size": [height, width], "counts": mask.lengths.tolist()}, height, width)
    assert ours == theirs
    assert mask.area == coco.area(theirs)
    assert mask.bbox == tuple(coco.toBbox(theirs))
    return mask


@pytest.mark.parametrize("make", MAPS)
@pytest.mark.parametrize(
    "size", [(300, 451), (64, 64), (37, 23), (5, 700), (700, 5), (1, 90), (90, 1), (1, 1)]
)
@pytest.mark.parametrize("low", [(64, 64), (48, 80), (81, 37)])
def test_pixels_are_those_of_interpolate_and_threshold(
    make: Callable[[int, int], Map], low: Size, size: Size
) -> None:
    assert_same_pixels(make(*low), size)


@pytest.mark.parametrize("low", [(1, 1), (1, 7), (7, 1), (2, 2)])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (31, 17)])
def test_tiny_maps(low: Size, size: Size) -> None:
    for make in MAPS:
        assert_same_pixels(make(*low), size)


@pytest.mark.parametrize(
    ("make", "size"), [(blobs, (4000, 6000)), (noise, (1200, 1800)), (ring, (1199, 1801))]
)
def test_maps_and_pictures_of_everyday_sizes(make: Callable[[int, int], Map], size: Size) -> None:
    assert_same_pixels(make(256, 256), size)


sides = st.integers(1, 12)


# Sixteenths meet whole pixel rows and zero exactly; random values meet the rounding in between.
sixteenths = st.integers(-40, 40).map(lambda n: n / 16)


few_values = hypothesis_numpy.arrays(np.float32, st.tuples(sides, sides), elements=sixteenths)


random_values = st.builds(
    lambda seed, h, w: np.random.default_rng(seed).normal(size=(h, w)).astype(np.float32),
    st.integers(0, 2**32),
    sides,
    sides,
)


@given(few_values | random_values, st.integers(1, 60), st.integers(1, 60))
def test_pixels_of_any_small_map(logits: Map, height: int, width: int) -> None:
    assert_same_pixels(logits, (height, width))


@given(st.integers(1, 300), st.integers(1, 3000))
def test_crossings_on_whole_rows_and_columns(samples: int, size: int) -> None:
    """A ramp through zero at the middle: the place where rounding decides."""
    ramp = (np.arange(samples) - (samples - 1) / 2).astype(np.float32)
    assert_same_pixels(np.repeat(ramp[:, np.newaxis], 2, axis=1), (size, 2))
    assert_same_pixels(np.repeat(ramp[np.newaxis], 2, axis=0), (2, size))


@pytest.mark.parametrize("size", [1000, 1800, 6000])
def test_positions_are_rounded_as_torch_rounds_them(size: int) -> None:
    """Steep steps that cross zero a few millionths of a sample beside a pixel, one step in each column."""
    samples = 256
    random = np.random.default_rng(size)
    pixels = random.integers(size // 8, size - size // 8, 2000)
    position = (pixels + 0.5) * samples / size - 0.5 + random.uniform(-2e-5, 2e-5, pixels.size)
    sample = np.floor(position)
    fraction = (position - sample).astype(np.float32)
    before = np.arange(samples)[:, np.newaxis] <= sample
    steps = np.where(before, -fraction, 1 - fraction)
    assert_same_pixels(steps, (size, pixels.size))
    assert_same_pixels(np.ascontiguousarray(steps.T), (pixels.size, size))


def test_maps_need_not_be_contiguous() -> None:
    logits = np.asfortranarray(blobs(40, 60))
    expected = runs(blobs(40, 60), height=100, width=90).lengths
    assert np.array_equal(runs(logits, height=100, width=90).lengths, expected)
    assert np.array_equal(runs(np.repeat(logits, 2, axis=1)[:, ::2], height=100, width=90).lengths, expected)


def test_the_logits_are_left_alone() -> None:
    logits = blobs(20, 20)
    logits[3, 3] = np.nan
    before = logits.copy()
    mask = runs(logits, height=50, width=50)
    outline(logits, mask)
    assert np.array_equal(logits, before, equal_nan=True)


def test_nan_is_background() -> None:
    logits = full(8, 8)
    logits[2, 5] = np.nan
    mask = runs(logits, height=8, width=8).to_array()
    assert not mask[2, 5]
    assert mask.sum() == 63
    assert runs(np.full((4, 4), np.nan, np.float32), height=9, width=9).area == 0


def test_infinities_are_very_large_numbers() -> None:
    signs = noise(16, 16)
    infinite = np.where(signs > 0, np.inf, -np.inf).astype(np.float32)
    large = np.where(signs > 0, 1e30, -1e30).astype(np.float32)
    for size in ((16, 16), (50, 70), (9, 5)):
        mask = runs(infinite, height=size[0], width=size[1])
        assert np.array_equal(mask.lengths, runs(large, height=size[0], width=size[1]).lengths)
    assert outline(infinite, runs(infinite, height=50, width=70)).outer


@pytest.mark.parametrize("shape", [(3,), (2, 3, 3), (0, 4), (4, 0)])
def test_what_is_no_map_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        runs(np.zeros(shape, np.float32), height=5, width=5)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_pictures_without_pixels_are_refused(size: Size) -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        runs(blobs(4, 4), height=size[0], width=size[1])


@given(hypothesis_numpy.arrays(np.bool_, st.tuples(sides, sides)))
def test_runs_of_an_array_are_those_of_pycocotools(mask_hw: npt.NDArray[np.bool_]) -> None:
    mask = Runs.from_array(mask_hw)
    theirs = coco.encode(np.asfortranarray(mask_hw).view(np.uint8))
    ours = coco.frPyObjects(
        {"size": list(mask_hw.shape), "counts": mask.lengths.tolist()}, mask.height, mask.width
    )
    assert ours == theirs
    assert mask.area == coco.area(theirs)
    assert mask.bbox == tuple(coco.toBbox(theirs))
    assert np.array_equal(mask.to_array(), mask_hw)


def test_runs_of_length_zero_do_not_widen_the_box() -> None:
    """As a client may send them: [background, nothing, background, object, ...]."""
    mask = Runs(4, 3, np.array([2, 0, 3, 1, 4, 0, 2]))
    assert mask.bbox == (1, 1, 1, 1)
    assert mask.area == 1
    assert Runs(4, 3, np.array([3, 0, 9])).bbox == (0, 0, 0, 0)


def test_stability_is_the_iou_of_two_thresholds() -> None:
    logits = np.array([[2.0, 1.5, 0.5], [-0.5, -1.5, -3.0]], np.float32)
    assert stability(logits) == 2 / 4
    assert stability(logits, offset=0.4) == 3 / 3
    assert stability(logits, offset=1.7) == 1 / 5
    assert stability(empty(4, 4)) == 1.0
    assert stability(full(4, 4)) == 1.0
    assert stability(zero(4, 4)) == 0.0


@pytest.mark.parametrize("scale", [0.3, 1, 40])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 90), (64, 64), (300, 211)])
def test_the_area_is_that_of_the_runs(scale: float, height: int, width: int) -> None:
    chance = np.random.default_rng(height)
    for offset in (-2, 0, 2):
        logits = (scale * chance.normal(offset, 1, (64, 64))).astype(np.float32)
        logits[5, 5], logits[9, 9], logits[0, 0] = np.nan, np.inf, 0
        expected = runs(logits, height=height, width=width).area
        assert area(logits, height=height, width=width) == expected
