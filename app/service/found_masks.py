"""What a search for every object asks of the decoder, and the form in which its masks are returned.

Does not know about queues, or when what is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from app.codecs.answers import MaskAnswer, MaskOptions, written_mask
from app.codecs.logits import encode_logits
from app.scheduling.abandoned import check_wanted
from app.service.decodings import is_quick_to_draw
from model.everything.candidates import Candidate, Extras, Thresholds, sift
from model.everything.crops import Box, Pattern
from model.types import LOGIT_LIMIT, Embedding, Prediction, Prompt


@dataclass(frozen=True, slots=True)
class Criteria:
    """What to look for, and how to return it."""

    pattern: Pattern
    thresholds: Thresholds
    options: MaskOptions
    use_m2m: bool = False
    """Decode each mask once more, from its logits and its point, before it is judged."""
    multimask_output: bool = True
    max_masks: int | None = None
    order: Literal["iou", "area"] = "iou"
    """Best or largest first."""

    @property
    def extras(self) -> Extras:
        """What the reply needs beside the runs of masks."""
        return Extras(border=self.options.mask_format == "polygons", logits=self.options.return_logits)


@dataclass(frozen=True, slots=True)
class Found:
    """A mask, and the click and the crop that found it."""

    answer: MaskAnswer
    point: tuple[float, float]
    crop: Box


@dataclass(frozen=True, slots=True)
class Everything:
    """All masks of a picture, in the order asked for."""

    height: int
    width: int
    masks: list[Found]
    model: str


@dataclass(frozen=True, slots=True)
class FirstLook:
    """A click whose masks, good or bad, are decoded once more."""

    embedding: Embedding
    prompt: Prompt
    is_quick: bool = True

    def shape(self, prediction: Prediction) -> list[Prediction]:
        """Return the prediction as it is."""
        return [prediction]

    def again(self, prediction: Prediction, *, iou_floor: float | None) -> list[Prompt]:
        """Return a prompt for each mask."""
        clamped = prediction.logits.clip(-LOGIT_LIMIT, LOGIT_LIMIT)
        return [
            replace(self.prompt, mask_logits=logits, multimask_output=False, iou_floor=iou_floor)
            for logits in clamped
        ]


@dataclass(frozen=True, slots=True)
class Sifting:
    """A click, and the masks of it that are objects."""

    embedding: Embedding
    """Of the crop."""
    prompt: Prompt
    crop: Box
    whole: Embedding
    """Of the picture."""
    criteria: Criteria

    @property
    def is_quick(self) -> bool:
        """As in Decodable."""
        thresholds = self.criteria.thresholds
        plain = not self.criteria.extras.border and not thresholds.min_mask_region_area
        return plain and not thresholds.mask_threshold and is_quick_to_draw(self.embedding)

    def shape(self, prediction: Prediction) -> list[Candidate]:
        """Return those masks of the prediction that pass."""
        return sift(
            prediction,
            crop=self.crop,
            point=self.prompt.points[0],
            height=self.whole.height,
            width=self.whole.width,
            thresholds=self.criteria.thresholds,
            extras=self.criteria.extras,
            check=check_wanted,
        )


def most_wanted(candidates: Sequence[Candidate], criteria: Criteria) -> list[Candidate]:
    """Sort masks as the criteria say, and return as many of them as they say."""
    key = _area if criteria.order == "area" else _iou
    return sorted(candidates, key=key, reverse=True)[: criteria.max_masks]


def write(candidate: Candidate, *, height: int, width: int, options: MaskOptions, logit_bytes: int) -> Found:
    """Return a mask in the format of the reply. Logits take `logit_bytes` per value."""
    check_wanted()
    logits = candidate.logits
    mask = written_mask(
        candidate.mask(height=height, width=width),
        polygons=candidate.outline(tolerance=options.simplify),
        logits=None if logits is None else encode_logits(logits, bytes_per_value=logit_bytes),
        iou=candidate.iou,
        stability=candidate.stability,
        options=options,
    )
    return Found(mask, candidate.point, candidate.crop)


def _iou(candidate: Candidate) -> float:
    return candidate.iou


def _area(candidate: Candidate) -> int:
    return candidate.area
