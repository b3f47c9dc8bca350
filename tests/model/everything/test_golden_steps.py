"""Each step of "everything" equals Meta's own function, on the arrays of tests/golden/everything_recipe.py."""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from app.codecs.rle import encode_counts
from model.everything.boxes import corners, near_crop_edge, nms
from model.everything.candidates import stability_score
from model.everything.crops import Pattern, crop_boxes, point_grid, points_per_side_of
from model.everything.regions import postprocess_small_regions, remove_small_regions
from model.masks.cleaning import clean
from model.masks.cropping import uncrop
from model.masks.runs import Runs, area, runs
from tests.golden.everything_recipe import boxes, logits, masks

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "everything_steps.json").read_text()
)
COUNT, HEIGHT, WIDTH = (GOLDEN["logits"][name] for name in ("count", "height", "width"))
SIZE = {"height": HEIGHT, "width": WIDTH}
LOGITS = logits(COUNT, HEIGHT, WIDTH)
MASKS = [Runs.from_array(mask) for mask in masks(COUNT, HEIGHT, WIDTH)]


def crc(mask: Runs) -> int:
    return crc32(mask.lengths.astype("<i8").tobytes())


def test_the_arrays_are_those_of_the_golden_file() -> None:
    assert crc32(LOGITS.tobytes()) == GOLDEN["logits"]["crc32"]


@pytest.mark.parametrize("case", GOLDEN["point_grids"], ids=str)
def test_grids_of_points(case: dict[str, Any]) -> None:
    pattern = Pattern(
        points_per_side=case["points_per_side"], crop_n_points_downscale_factor=case["downscale"]
    )
    grids = [point_grid(points_per_side_of(layer, pattern)) for layer in range(case["layers"] + 1)]
    assert [len(grid) for grid in grids] == case["counts"]
    assert grids[-1][: len(case["first"])].tolist() == case["first"]
    assert [grid.sum() for grid in grids] == pytest.approx(case["sums"])


@pytest.mark.parametrize("case", GOLDEN["crop_boxes"], ids=lambda c: f"{c['width']}x{c['height']}")
def test_boxes_of_crops(case: dict[str, Any]) -> None:
    found = crop_boxes(
        height=case["height"],
        width=case["width"],
        layers=case["layers"],
        overlap_ratio=case["overlap_ratio"],
    )
    assert [list(box) for box, _ in found] == case["boxes"]
    assert [layer for _, layer in found] == case["layer"]


@pytest.mark.parametrize("case", GOLDEN["stability"], ids=lambda c: f"{c['threshold']}+-{c['offset']}")
def test_stability(case: dict[str, Any]) -> None:
    scores = [
        stability_score(each, threshold=case["threshold"], offset=case["offset"], **SIZE) for each in LOGITS
    ]
    expected = [np.nan if score is None else score for score in case["scores"]]
    np.testing.assert_allclose(scores, expected, rtol=1e-7)


def test_runs_areas_and_boxes_of_masks() -> None:
    drawn = [runs(each, **SIZE) for each in LOGITS]
    assert [crc(mask) for mask in drawn] == GOLDEN["runs_crc32"] == [crc(mask) for mask in MASKS]
    assert [area(each, **SIZE) for each in LOGITS] == GOLDEN["areas"] == [mask.area for mask in drawn]
    assert [list(corners(mask.bbox)) for mask in drawn] == GOLDEN["mask_boxes"]
    for mask, expected in zip(drawn, GOLDEN["runs"], strict=True):
        assert expected is None or mask.lengths.tolist() == expected
    counts = {encode_counts(mask.lengths) for mask in drawn}
    assert set(GOLDEN["coco"]) <= counts


def test_boxes_near_the_edge_of_a_crop_and_masks_put_back() -> None:
    case = GOLDEN["crop_edge"]
    x0, y0, _, _ = crop = tuple(case["crop"])
    size = {"height": case["height"], "width": case["width"]}
    put_back = [uncrop(mask, (x0, y0), **size) for mask in MASKS]
    assert [crc(mask) for mask in put_back] == case["runs_crc32"]
    shifted = np.array(GOLDEN["mask_boxes"], np.float32) + np.array([x0, y0, x0, y0], np.float32)
    assert shifted.tolist() == case["boxes"]
    assert near_crop_edge(shifted, crop, **size).astype(int).tolist() == case["near"]
    assert near_crop_edge(shifted, crop, px=5, **size).astype(int).tolist() == case["near_atol_5"]


@pytest.mark.parametrize("case", GOLDEN["nms"]["keep"], ids=lambda c: str(c["threshold"]))
def test_what_nms_keeps(case: dict[str, Any]) -> None:
    found, scores = boxes(*(GOLDEN["nms"][name] for name in ("count", "width", "height")))
    assert crc32(found.tobytes()) == GOLDEN["nms"]["boxes_crc32"]
    assert nms(found, scores, threshold=case["threshold"]).tolist() == case["index"]


def test_nms_of_equal_scores_keeps_their_order() -> None:
    found, _ = boxes(*(GOLDEN["nms"][name] for name in ("count", "width", "height")))
    kept = nms(found, np.ones(len(found), np.float32), threshold=0.7)
    assert kept.tolist() == GOLDEN["nms"]["equal_scores"]


@pytest.mark.parametrize("case", GOLDEN["small_regions"], ids=lambda c: f"{c['mode']} {c['area']}")
def test_small_regions(case: dict[str, Any]) -> None:
    found = [remove_small_regions(mask, area=case["area"], mode=case["mode"]) for mask in MASKS]
    assert [int(changed) for _, changed in found] == case["changed"]
    assert [mask.area for mask, _ in found] == case["areas"]
    assert [crc(mask) for mask, _ in found] == case["runs_crc32"]


@pytest.mark.parametrize("case", GOLDEN["postprocess_small_regions"], ids=lambda c: str(c["min_area"]))
def test_small_regions_and_the_duplicates_that_this_makes(case: dict[str, Any]) -> None:
    found = [
        mask
        for _, mask in postprocess_small_regions(MASKS, min_area=case["min_area"], nms_thresh=case["nms"])
    ]
    assert [list(corners(mask.bbox)) for mask in found] == case["boxes"]
    assert [mask.area for mask in found] == case["areas"]
    assert [crc(mask) for mask in found] == case["runs_crc32"]


@pytest.mark.parametrize("case", GOLDEN["logit_cleaning"], ids=lambda c: str(c["max_hole_area"]))
def test_cleaning_of_logits(case: dict[str, Any]) -> None:
    cleaned = [
        clean(each, max_hole_area=case["max_hole_area"], max_sprinkle_area=case["max_sprinkle_area"])
        for each in LOGITS
    ]
    drawn = [runs(each, height=case["height"], width=case["width"]) for each in cleaned]
    assert [mask.area for mask in drawn] == case["areas"]


@pytest.mark.parametrize("left", [0, 3])
@pytest.mark.parametrize("top", [0, 2])
def test_masks_are_put_back_where_the_crop_was(left: int, top: int) -> None:
    """Crops at the picture's edges, too: runs that continue there, and pixels that end the picture."""
    chance = np.random.default_rng(5)
    for height, width in ((7, 5), (7 + top, 5 + left), (7 + top, 9 + left), (11 + top, 5 + left)):
        if height < 7 + top or width < 5 + left:
            continue
        for share in (0.0, 0.4, 0.9, 1.0):
            cropped = chance.random((7, 5)) < share
            whole = np.zeros((height, width), np.bool_)
            whole[top : top + 7, left : left + 5] = cropped
            put_back = uncrop(Runs.from_array(cropped), (left, top), height=height, width=width)
            assert put_back.lengths.tolist() == Runs.from_array(whole).lengths.tolist()
            if share:
                encoded = coco_mask.encode(np.asfortranarray(whole, np.uint8))
                assert encode_counts(put_back.lengths) == encoded["counts"].decode()
