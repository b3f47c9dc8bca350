"""Clicks on small objects on crops of their own, against a model that sees what is red."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from model.training.clicks import Click, Mask
from model.training.zooming import LEAST_SIDE, Crop, ZoomingPredictor, crop_for
from model.types import Embedding, Pixels, Prediction, Prompt
from tests.model.training.eval_sets import logits_of
from tests.model.training.packs import disc

HEIGHT, WIDTH, SIDE = 300, 400, 64
WHOLE = Crop(0, 0, WIDTH, HEIGHT)
SMALL = disc(HEIGHT, WIDTH, centre=(310, 190), radius=20)
CLICK, BESIDE = Click(310, 190, is_object=True), Click(345, 190, is_object=False)


class Redness:
    """Finds all that is red; remembers what it was given."""

    def __init__(self) -> None:
        self.encoded: list[tuple[int, ...]] = []
        self.asked: list[Prompt] = []

    def encode(self, images: Sequence[Pixels]) -> list[Embedding]:
        self.encoded += [image.shape for image in images]
        return [
            cast(Embedding, SimpleNamespace(height=len(x), width=x.shape[1], red=x[..., 0] > 0))
            for x in images
        ]

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        ((embedding, prompt),) = jobs
        self.asked.append(prompt)
        found = logits_of(cast(SimpleNamespace, embedding).red, SIDE)
        count = 3 if prompt.multimask_output else 1
        scores = np.array([0.5, 0.9, 0.4][:count], np.float32)
        return [Prediction(np.stack([found, found * 9, found][:count]), scores, 1.0)]


def predictor_of(mask: Mask) -> tuple[Redness, ZoomingPredictor]:
    model, pixels = Redness(), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[mask, 0] = 255
    return model, ZoomingPredictor(model, model.encode([pixels])[0], pixels)


def test_the_second_click_looks_at_a_crop_and_the_third_at_the_same() -> None:
    model, predictor = predictor_of(SMALL)
    masks, scores = predictor.predict([CLICK])
    assert (len(masks), scores.argmax()) == (3, 1)
    assert model.asked[0].points == ((310.0, 190.0),)
    coarse = (masks[1] != SMALL).sum()

    masks, scores = predictor.predict([CLICK, BESIDE])
    height, width, _ = model.encoded[1]
    assert height == width == pytest.approx(1.6 * (345 - 290), abs=6)  # the disc's left edge to the click
    assert len(masks) == len(scores) == 1
    assert (masks[0] != SMALL).sum() < coarse / 3
    second = model.asked[1]
    x0, y0 = 310 - second.points[0][0], 190 - second.points[0][1]
    assert second.points[1] == (345 - x0, 190 - y0)
    assert (x0, y0) == pytest.approx(((290 + 345 - width) / 2, 190 - height / 2), abs=3)
    assert second.labels == (1, 0)
    assert second.mask_logits is not None
    assert second.mask_logits.shape == (SIDE, SIDE)
    assert np.abs(second.mask_logits).max() == 10  # the mask, drawn
    assert (second.mask_logits > 0).mean() == pytest.approx(SMALL.sum() / height**2, abs=0.05)

    predictor.predict([CLICK, BESIDE, Click(312, 195, is_object=True)])
    assert len(model.encoded) == 2
    assert model.asked[2].mask_logits is not None
    assert np.abs(model.asked[2].mask_logits).max() == 8  # the logits as they were returned
    assert model.asked[2].points[2] == (312 - x0, 195 - y0)


def test_a_large_object_and_none_are_looked_for_on_the_whole_picture() -> None:
    large = disc(HEIGHT, WIDTH, centre=(200, 150), radius=120)
    for mask in (large, np.zeros_like(large)):
        model, predictor = predictor_of(mask)
        predictor.predict([CLICK])
        predictor.predict([CLICK, BESIDE])
        assert len(model.encoded) == 1
        assert model.asked[1].points == ((310.0, 190.0), (345.0, 190.0))


def test_the_crop_follows_the_mask() -> None:
    crop = crop_for(SMALL, [CLICK], now=WHOLE)
    assert (crop.x1 - crop.x0, crop.y1 - crop.y0) == (65, 65)
    assert crop_for(SMALL, [CLICK], now=crop) == crop
    far = Click(100, 190, is_object=True)
    wider = crop_for(SMALL, [CLICK, far], now=crop)
    assert wider == WHOLE  # 1.6 times 231 is most of the picture
    nearer = crop_for(SMALL, [CLICK, Click(250, 190, is_object=True)], now=crop)
    assert nearer.x0 < 250 - 10
    assert nearer.holds(Crop(250, 170, 331, 211))
    dot = disc(HEIGHT, WIDTH, centre=(3, 297), radius=2)
    assert crop_for(dot, [Click(3, 297, is_object=True)], now=nearer) == Crop(
        0, HEIGHT - LEAST_SIDE, LEAST_SIDE, HEIGHT
    )  # not the one before, which shows it not at all


def test_a_crop_much_too_large_is_left() -> None:
    whole_row = Crop(100, 90, 350, 290)
    assert crop_for(SMALL, [CLICK], now=whole_row).area < whole_row.area / 5
