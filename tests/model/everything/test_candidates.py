"""What passes the filters of "everything", beyond the golden numbers."""

from dataclasses import replace

import numpy as np

from model.everything.candidates import Candidate, Extras, Thresholds, best_of_crop, best_of_crops, sift
from model.everything.crops import Box
from model.types import Logits, Prediction

ALL = Thresholds(pred_iou_thresh=0, stability_score_thresh=0)
WHOLE: Box = (0, 0, 64, 64)
PLAIN = Extras()


def square(x0: int, y0: int, x1: int, y1: int, *, height: float = 8.0) -> Logits:
    logits = np.full((64, 64), -height, np.float32)
    logits[y0:y1, x0:x1] = height
    return logits


def sifted(
    *logits: Logits,
    thresholds: Thresholds = ALL,
    crop: Box = WHOLE,
    extras: Extras = PLAIN,
    size: int = 64,
) -> list[Candidate]:
    prediction = Prediction(np.stack(logits), np.linspace(0.9, 0.5, len(logits), dtype=np.float32), 1.0)
    return sift(
        prediction, crop=crop, point=(1.0, 2.0), height=size, width=size, thresholds=thresholds, extras=extras
    )


def test_a_mask_at_the_iou_threshold_does_not_pass_and_zero_lets_all_pass() -> None:
    at = replace(ALL, pred_iou_thresh=float(np.float32(0.9)))
    assert sifted(square(1, 1, 9, 9), thresholds=at) == []
    assert len(sifted(square(1, 1, 9, 9), square(1, 1, 30, 30))) == 2


def test_empty_masks_are_no_objects_whatever_the_thresholds() -> None:
    nothing, almost = np.full((64, 64), -9, np.float32), np.full((64, 64), -0.5, np.float32)
    assert sifted(nothing, almost) == []


def test_specks_and_holes_are_cleaned_before_the_mask_is_judged() -> None:
    logits = square(10, 10, 40, 40)
    logits[20, 20], logits[60, 60] = -8, 8
    (raw,) = sifted(logits)
    (clean,) = sifted(logits, thresholds=replace(ALL, min_mask_region_area=1))
    assert raw.box == (10, 10, 60, 60)
    assert clean.box == (10, 10, 39, 39)
    assert clean.mask(height=64, width=64).area == 900
    (kept,) = sifted(logits, thresholds=replace(ALL, min_mask_region_area=1), extras=Extras(logits=True))
    assert kept.logits is not None
    assert (kept.logits == logits).all()


def test_what_is_cut_off_by_its_crop_is_dropped_but_not_what_ends_with_the_picture() -> None:
    left_half: Box = (0, 0, 64, 128)
    ends_inside, cut_off, at_the_border = square(5, 5, 30, 60), square(30, 5, 64, 60), square(0, 0, 30, 64)
    found = sifted(ends_inside, cut_off, at_the_border, crop=left_half, size=128)
    assert [candidate.iou for candidate in found] == [np.float32(0.9), np.float32(0.5)]
    assert found[1].box == (0, 0, 29, 127)


def test_a_candidate_knows_its_place_in_the_picture() -> None:
    (candidate,) = sifted(square(25, 25, 40, 40), crop=(32, 64, 96, 128), size=128)
    assert candidate.point == (33.0, 66.0)
    mask = candidate.mask(height=128, width=128)
    assert mask.bbox == (57, 89, 15, 15)
    assert candidate.nbytes == candidate.lengths.nbytes


def test_the_best_of_a_crop_and_then_the_smaller_crop_win() -> None:
    worse, better = (
        replace(sifted(square(10, 10, 40, 40 + more))[0], iou=iou) for more, iou in ((0, 0.6), (1, 0.8))
    )
    assert best_of_crop([worse, better], thresholds=ALL) == [better]
    of_a_small_crop = replace(worse, crop=(0, 0, 50, 50))
    assert best_of_crops([better, of_a_small_crop], thresholds=ALL) == [of_a_small_crop]
    assert best_of_crop([], thresholds=ALL) == best_of_crops([], thresholds=ALL) == []
