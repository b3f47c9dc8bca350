"""Small objects, from the second click on looked at more closely: a crop around the mask, embedded anew.

After FocalClick (arXiv 2204.02574). The server's clients do the same (`closer` in client/, app/page/closer.js):
they embed the crop as a picture of its own, move clicks, and hand back the mask or, in the same crop, the logits.
Does not know the protocol of clicks.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from model.masks.drawn import drawn_logits
from model.training.clicks import Click, Mask
from model.training.sessions import Model, handed_back, masks_of, prompt_of
from model.types import Embedding, Logits, Pixels

Scalar = TypeVar("Scalar", bound=np.generic)

MARGIN, LEAST_MARGIN = 1.6, 1.15
"""The side of a new crop over the longer one of what it must show; a crop that shows so much is kept."""

MOST_WASTE = 2.5
"""A crop of so many times the area that a new one would have is left."""

LEAST_SIDE = 64
"""Of a crop, in pixels: below, there is nothing more to see."""

MOST_SHARE = 0.6
"""Of the picture: a larger crop shows little more than the whole."""


class Crop(NamedTuple):
    """Pixels of a picture, x1 and y1 exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    def of(self, picture: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """The view of an array (h, w, ..)."""
        return picture[self.y0 : self.y1, self.x0 : self.x1]

    def holds(self, other: "Crop") -> bool:
        """Whether all of the other is within."""
        return self.x0 <= other.x0 and self.y0 <= other.y0 and self.x1 >= other.x1 and self.y1 >= other.y1


class ZoomingPredictor:
    """Decodes the first click on the whole picture, later ones on a crop where the object is small."""

    def __init__(self, model: Model, embedding: Embedding, pixels: Pixels) -> None:
        self._model, self._pixels = model, pixels
        self._whole = Crop(0, 0, embedding.width, embedding.height)
        self._crop, self._embedding, self._embedding_of_all = self._whole, embedding, embedding
        self._mask: Mask = np.zeros((embedding.height, embedding.width), bool)
        self._previous: Logits | None = None

    def predict(self, clicks: Sequence[Click]) -> tuple[list[Mask], npt.NDArray[np.float32]]:
        """See sessions.Predictor."""
        if len(clicks) > 1:
            self._look_at(crop_for(self._mask, clicks, now=self._crop))
        x0, y0, *_ = self._crop
        moved = [replace(click, x=click.x - x0, y=click.y - y0) for click in clicks]
        found = self._model.decode([(self._embedding, prompt_of(moved, self._previous))])[0]
        masks = []
        for part in masks_of(found, self._embedding):
            mask = np.zeros_like(self._mask)
            self._crop.of(mask)[:] = part
            masks.append(mask)
        self._mask, self._previous = masks[int(found.iou.argmax())], handed_back(found)
        return masks, found.iou

    def _look_at(self, crop: Crop) -> None:
        if crop == self._crop:
            return
        if crop == self._whole:
            self._embedding = self._embedding_of_all
        else:
            self._embedding = self._model.encode([np.ascontiguousarray(crop.of(self._pixels))])[0]
        if self._previous is not None:
            self._previous = drawn_logits(crop.of(self._mask), self._previous.shape)
        self._crop = crop


def crop_for(mask: Mask, clicks: Sequence[Click], *, now: Crop) -> Crop:
    """What of the picture shows a mask (h, w) and all clicks best: `now`, a new square, or all of it."""
    height, width = mask.shape
    whole = Crop(0, 0, width, height)
    if not mask.any():
        return whole
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    xs, ys = [columns[0], columns[-1], *(c.x for c in clicks)], [rows[0], rows[-1], *(c.y for c in clicks)]
    shown = Crop(min(xs), min(ys), max(xs) + 1, max(ys) + 1)
    best = _square(shown, MARGIN, whole)
    if best.area > MOST_SHARE * whole.area:
        return whole
    is_close = now.area <= MOST_WASTE * best.area
    return now if is_close and now.holds(_square(shown, LEAST_MARGIN, whole)) else best


def _square(shown: Crop, margin: float, whole: Crop) -> Crop:
    """A square around `shown`, cut where the picture is shorter."""
    side = max(margin * max(shown.x1 - shown.x0, shown.y1 - shown.y0), LEAST_SIDE)
    (x0, x1), (y0, y1) = (
        _interval((first + last) / 2, min(side, most), most)
        for first, last, most in ((shown.x0, shown.x1, whole.x1), (shown.y0, shown.y1, whole.y1))
    )
    return Crop(x0, y0, x1, y1)


def _interval(middle: float, length: float, most: int) -> tuple[int, int]:
    start = int(min(max(middle - length / 2, 0), most - length))
    return start, int(start + length)
