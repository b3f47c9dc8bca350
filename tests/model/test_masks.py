"""Masks from logits: the pixels of interpolate-and-threshold, and everything else that is said of a mask."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from PIL import Image
from pycocotools import mask as coco

from model.masks import Runs, png, polygons, runs, stability

Map = npt.NDArray[np.float32]
Size = tuple[int, int]


def noise(h: int, w: int) -> Map:
    return np.random.default_rng(h * 1000 + w).normal(size=(h, w)).astype(np.float32)


def blobs(h: int, w: int) -> Map:
    """Three round hills, one of them over the border."""
    y, x = (np.arange(h)[:, np.newaxis] + 0.5) / h, (np.arange(w) + 0.5) / w
    hills = [(0.3, 0.35, 0.12), (0.65, 0.6, 0.15), (0.95, 0.1, 0.1)]
    return sum(
        (14 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s * s)) for cy, cx, s in hills), -6.0
    ).astype(np.float32)


def ring(h: int, w: int) -> Map:
    """A disc with a hole."""
    y, x = (np.arange(h)[:, np.newaxis] + 0.5) / h, (np.arange(w) + 0.5) / w
    return (10 * (0.1 - np.abs(np.hypot(y - 0.5, x - 0.5) - 0.3))).astype(np.float32)


def empty(h: int, w: int) -> Map:
    return np.full((h, w), -3, np.float32)


def full(h: int, w: int) -> Map:
    return np.full((h, w), 3, np.float32)


def zero(h: int, w: int) -> Map:
    return np.zeros((h, w), np.float32)


def one_pixel(h: int, w: int) -> Map:
    logits = empty(h, w)
    logits[h // 2, w // 3] = 5
    return logits


def one_gap(h: int, w: int) -> Map:
    return -one_pixel(h, w)


def checkerboard(h: int, w: int) -> Map:
    return np.where(np.add.outer(np.arange(h), np.arange(w)) % 2, 2, -1).astype(np.float32)


MAPS: list[Callable[[int, int], Map]] = [
    noise,
    blobs,
    ring,
    empty,
    full,
    zero,
    one_pixel,
    one_gap,
    checkerboard,
]


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
    runs(logits, height=50, width=50)
    polygons(logits, height=50, width=50)
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
    assert polygons(infinite, height=50, width=70).outer


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


def test_stability_is_the_iou_of_two_thresholds() -> None:
    logits = np.array([[2.0, 1.5, 0.5], [-0.5, -1.5, -3.0]], np.float32)
    assert stability(logits) == 2 / 4
    assert stability(logits, offset=0.4) == 3 / 3
    assert stability(logits, offset=1.7) == 1 / 5
    assert stability(empty(4, 4)) == 1.0
    assert stability(full(4, 4)) == 1.0
    assert stability(zero(4, 4)) == 0.0


@pytest.mark.parametrize("size", [(50, 70), (33, 1), (1, 33), (7, 9)])
def test_a_png_holds_the_mask_in_one_bit(size: Size) -> None:
    mask = runs(blobs(32, 32), height=size[0], width=size[1])
    with Image.open(BytesIO(png(mask))) as picture:
        assert picture.format == "PNG"
        assert picture.mode == "1"
        assert picture.size == (size[1], size[0])
        assert np.array_equal(np.asarray(picture), mask.to_array())
