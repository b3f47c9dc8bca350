"""Clicks on one object as an annotator would make them, and what each brought: the evaluation protocol.

The protocol is that of ../shared/data/eval/README.md. Does not know where pictures and models come from; asks
the model as the server does, with all clicks so far and the logits before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from model.masks.runs import runs
from model.training.clicks import Click, Mask, central_click
from model.types import LOGIT_LIMIT, Embedding, Logits, Pixels, Prediction, Prompt

MAX_CLICKS = 20


class Model(Protocol):
    """What evaluation needs of a model: Sam2Runner has it."""

    def encode(self, images: Sequence[Pixels]) -> list[Embedding]:
        """One embedding for each picture (h, w, 3)."""

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        """One prediction for each job."""


class Predictor(Protocol):
    """Finds one object, click by click."""

    def predict(self, clicks: Sequence[Click]) -> tuple[list[Mask], npt.NDArray[np.float32]]:
        """Masks (h, w) after all clicks so far and their predicted IoU: three after one click, later one.

        The next call begins with the best of them.
        """


class PicturePredictor:
    """Decodes on the whole picture, with the logits before."""

    def __init__(self, model: Model, embedding: Embedding) -> None:
        self._model, self._embedding = model, embedding
        self._previous: Logits | None = None

    def predict(self, clicks: Sequence[Click]) -> tuple[list[Mask], npt.NDArray[np.float32]]:
        """See Predictor."""
        found = self._model.decode([(self._embedding, prompt_of(clicks, self._previous))])[0]
        self._previous = handed_back(found)
        return masks_of(found, self._embedding), found.iou


@dataclass(frozen=True, slots=True)
class Estimate:
    """The model's own estimate of an IoU, and the IoU."""

    predicted: float
    true: float


@dataclass(frozen=True, slots=True)
class Session:
    """One object's clicks."""

    ious: tuple[float, ...]
    """After each click."""
    first_estimates: tuple[Estimate, ...]
    """Of the three masks after the first click."""
    later_estimates: tuple[Estimate, ...]
    """One a click, from the second on."""
    click_times: tuple[float, ...]
    """Seconds each, prediction and mask."""


def play_session(predictor: Predictor, truth: Mask, *, ignored: Mask, clicks: int = MAX_CLICKS) -> Session:
    """Click on `truth` (h, w) up to `clicks` times; where nothing is left to click, the last mask stays."""
    prediction, excluded = np.zeros_like(truth), ignored.copy()
    made: list[Click] = []
    ious: list[float] = []
    first: list[Estimate] = []
    later: list[Estimate] = []
    times: list[float] = []
    while len(ious) < clicks:
        click = central_click(truth & ~ignored, prediction & ~ignored, excluded=excluded)
        if click is None:
            ious += [ious[-1] if ious else 1.0] * (clicks - len(ious))
            break
        made.append(click)
        excluded[click.y, click.x] = True
        begun = perf_counter()
        masks, scores = predictor.predict(made)
        times.append(perf_counter() - begun)
        estimates = [
            Estimate(float(score), iou_of(mask, truth, ignored=ignored))
            for score, mask in zip(scores, masks, strict=True)
        ]
        (first if len(made) == 1 else later).extend(estimates)
        best = int(scores.argmax())
        prediction = masks[best]
        ious.append(estimates[best].true)
    return Session(tuple(ious), tuple(first), tuple(later), tuple(times))


def prompt_of(clicks: Sequence[Click], previous: Logits | None) -> Prompt:
    """All clicks so far, and the logits before: for three masks after one click, for one later."""
    return Prompt(
        points=tuple((float(c.x), float(c.y)) for c in clicks),
        labels=tuple(int(c.is_object) for c in clicks),
        mask_logits=previous,
        multimask_output=len(clicks) == 1,
    )


def masks_of(found: Prediction, embedding: Embedding) -> list[Mask]:
    """The masks (h, w) of a prediction at the size of its picture."""
    return [runs(x, height=embedding.height, width=embedding.width).to_array() for x in found.logits]


def handed_back(found: Prediction) -> Logits:
    """The logits of the best mask as the server returns them."""
    return found.logits[int(found.iou.argmax())].clip(-LOGIT_LIMIT, LOGIT_LIMIT)


def iou_of(prediction: Mask, truth: Mask, *, ignored: Mask) -> float:
    """IoU of two masks (h, w) over the pixels not ignored; 1 where both are empty there."""
    either = np.count_nonzero((prediction | truth) & ~ignored)
    return np.count_nonzero(prediction & truth & ~ignored) / either if either else 1.0
