"""Which of the decoder's masks are objects: filters on predicted IoU, on stability, and on the edges of crops.

Nothing is drawn: masks are low-resolution logits until they have passed, and runs from then on. Does not know
where the logits come from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.everything.boxes import Boxes, corners, near_crop_edge, nms
from model.everything.crops import Box
from model.masks.border_logits import BorderLogits
from model.masks.cleaning import clean
from model.masks.cropping import uncrop
from model.masks.outlines import Outline, outline
from model.masks.runs import Ring, Runs, area, runs
from model.types import Logits, Prediction


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as an object, by the names and with the defaults of SAM2AutomaticMaskGenerator."""

    pred_iou_thresh: float = 0.8
    """The predicted IoU must be above; 0 lets all pass."""
    stability_score_thresh: float = 0.95
    """The stability must be at least this; 0 lets all pass."""
    stability_score_offset: float = 1.0
    mask_threshold: float = 0.0
    box_nms_thresh: float = 0.7
    crop_nms_thresh: float = 0.7
    min_mask_region_area: float = 0.0
    """Pixels of the low-resolution logits, as max_hole_area and max_sprinkle_area of Meta's image predictor."""

    @property
    def iou_floor(self) -> float | None:
        """The predicted IoU that a mask must exceed to be drawn at all; None: draw all."""
        return self.pred_iou_thresh if self.pred_iou_thresh > 0 else None


@dataclass(frozen=True, slots=True)
class Extras:
    """What is kept of a mask beside its runs, because the reply needs it."""

    border: bool = False
    """The logits near the border, for an outline."""
    logits: bool = False


_NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A mask that has passed the filters. Runs take four bytes each, because there may be thousands of masks."""

    lengths: npt.NDArray[np.int32]
    """Runs within the crop, as in Runs."""
    area: int
    """Pixels."""
    iou: float
    """Predicted."""
    stability: float
    """At the picture's size, around `mask_threshold`."""
    point: tuple[float, float]
    """The click that found it, in pixels of the picture."""
    crop: Box
    box: tuple[int, int, int, int]
    """First and last pixel, in the picture."""
    border: BorderLogits | None
    """What its outline depends on, cleaned."""
    logits: Logits | None
    """As the decoder left them."""

    @property
    def nbytes(self) -> int:
        """Bytes held in memory, but for a few hundred."""
        extras = [extra.nbytes for extra in (self.border, self.logits) if extra is not None]
        return self.lengths.nbytes + sum(extras)

    def mask(self, *, height: int, width: int) -> Runs:
        """The mask at the size of the picture."""
        return uncrop(self._within_crop(), self.crop[:2], height=height, width=width)

    def outline(self, *, tolerance: float) -> Outline | None:
        """The outline in pixels of the picture, or None if no border was kept. As model.masks.outlines.outline."""
        if self.border is None:
            return None
        found = outline(self.border.to_map(), self._within_crop(), tolerance=tolerance)
        return Outline(
            *([_moved(ring, self.crop[:2]) for ring in rings] for rings in (found.outer, found.holes))
        )

    def _within_crop(self) -> Runs:
        x0, y0, x1, y1 = self.crop
        return Runs(y1 - y0, x1 - x0, self.lengths.astype(np.int64))


def _moved(ring: Ring, by: tuple[int, int]) -> Ring:
    return (ring + np.array(by, np.float64)).round(2)


def stability_score(logits_hw: Logits, *, threshold: float, offset: float, height: int, width: int) -> float:
    """IoU of the masks at `threshold` + and - `offset` at a picture's size; NaN if both are empty.

    As calculate_stability_score in sam2/utils/amg.py, on logits (h, w) that are upsampled as in `runs`.
    """
    outer = area(logits_hw - np.float32(threshold - offset), height=height, width=width)
    if not outer:
        return float("nan")
    return area(logits_hw - np.float32(threshold + offset), height=height, width=width) / outer


def sift(
    prediction: Prediction,
    *,
    crop: Box,
    point: tuple[float, float],
    height: int,
    width: int,
    thresholds: Thresholds,
    extras: Extras = _NO_EXTRAS,
    check: Callable[[], None] = lambda: None,
) -> list[Candidate]:
    """The masks of one click that are objects: IoU, then stability, then the edges of the crop decide.

    `point` is the click in pixels of the crop, `height` and `width` are the picture's. Empty masks are no objects.
    `check` is called before each mask, and may raise.
    """
    x0, y0, x1, y1 = crop
    size = {"height": y1 - y0, "width": x1 - x0}
    found = []
    passing = prediction.above(thresholds.iou_floor)
    for logits, iou in zip(passing.logits, passing.iou.tolist(), strict=True):
        check()
        cleaned = clean(
            logits,
            max_hole_area=thresholds.min_mask_region_area,
            max_sprinkle_area=thresholds.min_mask_region_area,
        )
        threshold, offset = thresholds.mask_threshold, thresholds.stability_score_offset
        stability = stability_score(cleaned, threshold=threshold, offset=offset, **size)
        if not stability >= thresholds.stability_score_thresh:  # not for NaN either
            continue
        shown = cleaned - np.float32(threshold) if threshold else cleaned
        mask = runs(shown, **size)
        if not (pixels := mask.area):
            continue
        left, top, right, bottom = corners(mask.bbox)
        box = (left + x0, top + y0, right + x0, bottom + y0)
        if near_crop_edge(np.array([box], np.float32), crop, height=height, width=width)[0]:
            continue
        found.append(
            Candidate(
                lengths=mask.lengths.astype(np.int32),
                area=pixels,
                iou=iou,
                stability=stability,
                point=(point[0] + x0, point[1] + y0),
                crop=crop,
                box=box,
                border=BorderLogits.of(shown, **size) if extras.border else None,
                logits=np.array(logits) if extras.logits else None,
            )
        )
    return found


def best_of_crop(candidates: Sequence[Candidate], *, thresholds: Thresholds) -> list[Candidate]:
    """One of each group of near duplicates within a crop, the best predicted IoU first."""
    scores = np.array([c.iou for c in candidates], np.float32)
    kept = nms(_boxes(candidates), scores, threshold=thresholds.box_nms_thresh)
    return [candidates[i] for i in kept]


def best_of_crops(candidates: Sequence[Candidate], *, thresholds: Thresholds) -> list[Candidate]:
    """One of each group of near duplicates of all crops, smaller crops first: they see more."""
    areas = np.array([(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (c.crop for c in candidates)], np.float32)
    kept = nms(_boxes(candidates), np.reciprocal(areas), threshold=thresholds.crop_nms_thresh)
    return [candidates[i] for i in kept]


def _boxes(candidates: Sequence[Candidate]) -> Boxes:
    return np.array([c.box for c in candidates], np.float32).reshape(-1, 4)
