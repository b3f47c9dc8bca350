"""Conversions of a mask, compared with pycocotools and with results by hand."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sam2_client import Mask, rle
from sam2_client.masks import DODGER_BLUE
from sam2_client.outlines import Ring, trace
from tests.rasters import HARD, assert_proper, beyond, ragged, rasterised, signed_area


def mask_of(pixels: np.ndarray) -> Mask:
    encoded: Any = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
    return Mask(
        rle={"size": list(encoded["size"]), "counts": encoded["counts"].decode()},
        iou=0.9,
        stability=0.8,
        area=int(pixels.sum()),
        bbox=tuple(coco_mask.toBbox(encoded).astype(int).tolist()),
    )


@pytest.fixture(params=range(24))
def pixels(request: pytest.FixtureRequest) -> np.ndarray:
    random = np.random.default_rng(request.param)
    height, width = random.integers(1, 60, 2) if request.param % 4 else (120, 190)
    return random.random((height, width)) < random.choice([0, 0.001, 0.1, 0.5, 1])


def test_rle_is_decoded_as_pycocotools_does(pixels: np.ndarray) -> None:
    decoded = mask_of(pixels).to_numpy()
    assert decoded.dtype == np.bool_
    assert decoded.flags.c_contiguous
    assert np.array_equal(decoded, pixels)


def test_rle_of_an_array_is_what_pycocotools_reads(pixels: np.ndarray) -> None:
    runs = rle.encode(pixels)
    assert np.array_equal(rle.decode(runs), pixels)
    assert runs["counts"] == coco_mask.encode(np.asfortranarray(pixels, np.uint8))["counts"].decode()


@pytest.mark.parametrize(
    ("counts", "what"),
    [
        ("", "truncated"),
        ("0o", "truncated"),
        ("32103\x07", "not a COCO string"),
        ("ü", "not a COCO string"),
        ("o" * 13 + "0", "too long"),
        ("32104", "3 x 4 pixels"),
        ([3, -2, 11], "3 x 4 pixels"),
    ],
)
def test_broken_rle_is_refused(counts: str | list[int], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        rle.decode({"size": [3, 4], "counts": counts})


def test_outlines_fill_to_the_mask(pixels: np.ndarray) -> None:
    mask = mask_of(pixels)
    crossings = np.zeros((pixels.shape[0], pixels.shape[1] + 1), int)
    for ring in mask.polygons + mask.holes:
        for (x, y), (next_x, next_y) in zip(ring, ring[1:] + ring[:1], strict=True):
            assert (x == next_x) != (y == next_y), "edges follow pixels, and no corner is superfluous"
            crossings[min(y, next_y) : max(y, next_y), x] += x == next_x
    assert np.array_equal(np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1, pixels)
    assert all(signed_area(ring) > 0 for ring in mask.polygons)
    assert all(signed_area(ring) < 0 for ring in mask.holes)


def test_outline_of_a_frame_by_hand() -> None:
    frame = np.ones((3, 4), bool)
    frame[1, 1:3] = False
    outer, holes = trace(frame)
    assert outer == [[(0, 0), (4, 0), (4, 3), (0, 3)]]
    assert holes == [[(1, 1), (1, 2), (3, 2), (3, 1)]]


@pytest.mark.parametrize("rows", [["10", "01"], ["01", "10"]])
def test_pixels_that_touch_by_a_corner_have_outlines_of_their_own(rows: list[str]) -> None:
    outer, holes = trace(np.array([[cell == "1" for cell in row] for row in rows]))
    assert [len(ring) for ring in outer] == [4, 4]
    assert holes == []


@pytest.mark.parametrize("tolerance", [0.5, 1, 2.5, 100])
def test_simplified_outlines_move_by_at_most_the_tolerance(pixels: np.ndarray, tolerance: float) -> None:
    mask = mask_of(pixels)
    simple = mask.outlines(simplify=tolerance)
    for kind in ("polygons", "holes"):
        for ring, full in zip(getattr(simple, kind), getattr(mask, kind), strict=True):
            assert 3 <= len(ring) <= len(full)
            left = iter(full)
            assert all(corner in left for corner in ring), "a subset of the corners, in order"
            left_out = sorted({*full} - {*ring})
            assert not left_out or farthest(left_out, ring) <= tolerance + 1e-9


@pytest.mark.parametrize("tolerance", [0, 0.5, 1, 2.5, 60])
def test_outlines_of_hard_masks_are_the_masks(tolerance: float) -> None:
    """Rings alone, and joined with their holes: drawn by pixels' centres and by pycocotools."""
    for name, pixels in {**HARD, **{str(seed): ragged(seed) for seed in range(60)}}.items():
        mask = mask_of(pixels)
        rings = mask.outlines(simplify=tolerance)
        parts = mask.joined_outlines(simplify=tolerance)
        assert len(parts) == len(rings.polygons)
        drawn = [rasterised([*rings.polygons, *rings.holes], pixels.shape)]
        drawn.append(
            np.any([np.zeros_like(pixels), *(rasterised([ring], pixels.shape) for ring in parts)], axis=0)
        )
        if parts:
            flat = [np.array(ring).ravel().tolist() for ring in parts]
            drawn.append(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, *pixels.shape))) == 1)
        for rasters in drawn:
            assert beyond(rasters, pixels, reach=max(1, int(np.ceil(tolerance)))) == 0, name
            assert tolerance or np.array_equal(rasters, pixels), name
        assert_proper([*rings.polygons, *rings.holes, *parts])


def test_a_hole_is_joined_to_the_part_that_has_it() -> None:
    """Two frames, one in the hole of the other, and a block beside them."""
    pixels = np.zeros((20, 40), bool)
    pixels[1:19, 1:19] = True
    pixels[3:17, 3:17] = False
    pixels[5:15, 5:15] = True
    pixels[9:11, 9:11] = False
    pixels[1:3, 25:39] = True
    frame, inner, block = sorted(mask_of(pixels).joined_outlines(), key=lambda ring: min(ring))
    assert [len(frame), len(inner), len(block)] == [10, 10, 4]
    assert {(3, 3), (17, 17)} <= set(frame)
    assert {(9, 9), (11, 11)} <= set(inner)


def farthest(points: Ring, ring: Ring) -> float:
    """Return the largest distance of these points from a ring, each to what is nearest of it."""
    starts = np.array(ring, float)
    along = np.roll(starts, -1, axis=0) - starts
    apart = np.array(points, float)[:, np.newaxis] - starts  # point, edge, x and y
    places = ((apart * along).sum(axis=2) / (along**2).sum(axis=1)).clip(0, 1)
    return float(np.hypot(*(apart - places[..., np.newaxis] * along).transpose(2, 0, 1)).min(axis=1).max())


def test_a_slope_of_steps_becomes_straight() -> None:
    mask = mask_of(np.tri(30, dtype=bool))
    assert len(mask.polygons[0]) == 62
    assert mask.outlines() == (mask.polygons, mask.holes)
    (ring,) = mask.outlines(simplify=1).polygons
    assert len(ring) <= 16, "steps stay where the triangle is a few pixels wide"
    for tolerance in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be a finite number of pixels"):
            mask.outlines(simplify=tolerance)


def test_a_crop_is_the_part_within_the_bounds(pixels: np.ndarray) -> None:
    mask = mask_of(pixels)
    x0, y0, x1, y1 = mask.bounds
    crop = mask.crop()
    assert crop.sum() == pixels.sum()
    again = np.zeros_like(pixels)
    again[y0:y1, x0:x1] = crop
    assert np.array_equal(again, pixels)


def cropped(pixels: np.ndarray, **changes: Any) -> dict[str, Any]:
    """Return a mask of 2 x 3 pixels as /decode returns it with `bounds`."""
    rle: Any = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
    rle["counts"] = rle["counts"].decode()
    facts = {"iou": 0.9, "stability": 0.8, "area": int(pixels.sum()), "bbox": [4, 1, 3, 2]}
    return {"rle": rle, "bounds": [4, 1, 7, 3], **facts, **changes}


@pytest.mark.parametrize("columns", [(0, 9), (3, 7)])
@pytest.mark.parametrize("rows", [(0, 6), (0, 4), (2, 6), (1, 5)])
@pytest.mark.parametrize("density", [0, 0.2, 0.8, 1])
def test_a_part_is_placed_as_in_an_array(
    rows: tuple[int, int], columns: tuple[int, int], density: float
) -> None:
    part = np.random.default_rng(3).random((rows[1] - rows[0], columns[1] - columns[0])) < density
    whole = np.zeros((6, 9), bool)
    whole[slice(*rows), slice(*columns)] = part
    placed = rle.place(rle.encode(part), (columns[0], rows[0], columns[1], rows[1]), size=(6, 9))
    assert placed == rle.encode(whole)


def test_a_mask_that_came_cropped_is_put_into_its_place() -> None:
    part = np.array([[True, False, True], [False, True, True]])
    mask = Mask.from_dict(cropped(part), size=(5, 9))
    whole = np.zeros((5, 9), bool)
    whole[1:3, 4:7] = part
    assert np.array_equal(mask.to_numpy(), whole)
    assert np.array_equal(coco_mask.decode(mask.rle), whole), (
        "the RLE for pycocotools also covers the whole picture"
    )
    assert np.array_equal(np.asarray(mask.to_pil()), whole * 255)
    assert np.array_equal(mask.crop(), part)
    assert "bounds" not in mask.to_dict()
    assert mask.polygons == mask_of(whole).polygons
    assert mask.overlay(np.zeros((5, 9), np.uint8)).size == (9, 5)


@pytest.mark.parametrize(
    ("changes", "size", "what"),
    [
        ({}, None, "pass the size"),
        ({}, (5, 6), "of a picture of 6 x 5 pixels"),
        ({}, (2, 9), "of a picture of 9 x 2 pixels"),
        ({"bounds": [4, 1, 6, 3]}, (5, 9), "does not fill"),
        ({"bounds": [-1, 1, 2, 3]}, (5, 9), "does not fill"),
        ({"bounds": None}, (5, 9), "does not fit a picture of"),
    ],
)
def test_a_mask_without_a_place_is_refused(changes: Any, size: tuple[int, int] | None, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Mask.from_dict(cropped(np.ones((2, 3), bool), **changes), size=size)


def test_a_list_of_runs_becomes_what_pycocotools_takes(pixels: np.ndarray) -> None:
    value = mask_of(pixels).to_dict()
    ends = np.flatnonzero(np.diff(pixels.ravel(order="F"), prepend=False, append=False))
    value["rle"]["counts"] = np.diff(ends, prepend=0, append=pixels.size).tolist()
    assert np.array_equal(coco_mask.decode(Mask.from_dict(value).rle), pixels)


def test_a_cutout_is_the_object_alone() -> None:
    picture = np.arange(30, dtype=np.uint8).reshape(5, 6)
    pixels = np.zeros((5, 6), bool)
    pixels[1, 2:4] = pixels[2, 3] = True
    cutout = np.asarray(mask_of(pixels).cutout(picture))
    assert cutout[..., 3].tolist() == [[255, 255], [0, 255]]
    assert cutout[..., 0].tolist() == picture[1:3, 2:4].tolist()
    with pytest.raises(ValueError, match="mask is empty"):
        mask_of(np.zeros((5, 6), bool)).cutout(picture)
    with pytest.raises(ValueError, match="4 x 4 pixels here, the mask 6 x 5"):
        mask_of(pixels).cutout(np.zeros((4, 4), np.uint8))


def test_an_overlay_of_an_empty_mask_is_the_picture() -> None:
    picture = np.arange(30, dtype=np.uint8).reshape(5, 6)
    assert np.array_equal(np.asarray(mask_of(np.zeros((5, 6), bool)).overlay(picture))[..., 0], picture)


def test_to_pil_is_white_on_the_object() -> None:
    pixels = np.array([[True, False, False], [True, True, False]])
    image = mask_of(pixels).to_pil()
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), pixels * 255)


def test_overlay_colours_the_object_and_nothing_else() -> None:
    picture = np.full((2, 3, 3), 100, np.uint8)
    pixels = np.array([[True, False, False], [True, True, False]])
    before = picture.copy()
    plain = np.asarray(mask_of(pixels).overlay(picture))
    red = np.asarray(mask_of(pixels).overlay(Image.fromarray(picture), color="#f00", opacity=1))
    assert np.array_equal(plain[~pixels], before[~pixels])
    assert np.abs(plain[pixels] - (45 + 0.55 * np.array(DODGER_BLUE))).max() <= 0.5
    assert (red[pixels] == (255, 0, 0)).all()
    assert np.array_equal(picture, before), "the caller's array is not changed"


@pytest.mark.parametrize(
    "look", [{"color": (256, 0, 0)}, {"color": (1, 2)}, {"opacity": 1.5}, {"opacity": 2}, {"opacity": np.nan}]
)
def test_overlay_refuses_what_would_come_out_as_another_colour(look: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(look))} is .*, but must be"):
        mask_of(np.ones((2, 3), bool)).overlay(np.zeros((2, 3), np.uint8), **look)


def test_overlay_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="4 x 4 pixels here, the mask 3 x 2"):
        mask_of(np.ones((2, 3), bool)).overlay(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("picture", "seen"),
    [
        (np.array([[1000, 3000]], np.uint16), [0, 255]),
        (Image.new("LA", (2, 1), (0, 0)), [255, 255]),
        (Image.new("La", (2, 1), (0, 0)), [255, 255]),
        (Image.new("F", (2, 1), 7.5), [0, 0]),
        (Image.new("P", (2, 1)), [0, 0]),
    ],
)
def test_overlay_shows_the_picture_as_the_service_sees_it(
    picture: np.ndarray | Image.Image, seen: list[int]
) -> None:
    shown = np.asarray(mask_of(np.zeros((1, 2), bool)).overlay(picture))
    assert shown.tolist() == [[[grey] * 3 for grey in seen]]


def test_a_mask_survives_json() -> None:
    mask = mask_of(np.eye(5, dtype=bool))
    again = Mask.from_dict(mask.to_dict())
    assert again.to_dict() == mask.to_dict()
    assert again.logits is None
