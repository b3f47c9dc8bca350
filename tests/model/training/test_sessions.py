"""The evaluation protocol, against a model whose answers are known."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from model.training.clicks import Mask
from model.training.evaluate import clicks_to, correlation, evaluate, grabcut_iou
from model.training.sessions import Estimate, PicturePredictor, Session, iou_of, play_session
from model.types import Embedding, Pixels, Prediction, Prompt
from tests.model.training.eval_sets import logits_of, pictures
from tests.model.training.packs import disc

TRUTH = disc(60, 80, centre=(40, 30), radius=18)
NOTHING = np.zeros((60, 80), bool)
SIDE = 64


class Oracle:
    """Answers with the masks it is given, in turn, the last one for ever; remembers what it was asked."""

    def __init__(self, *masks: Mask) -> None:
        self._masks = masks
        self.asked: list[Prompt] = []

    def encode(self, images: Sequence[Pixels]) -> list[Embedding]:
        return [cast(Embedding, SimpleNamespace(height=60, width=80)) for _ in images]

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        ((_, prompt),) = jobs
        self.asked.append(prompt)
        mask = self._masks[min(len(self.asked), len(self._masks)) - 1]
        if not prompt.multimask_output:
            return [Prediction(logits_of(mask, SIDE)[None], np.array([0.7], np.float32), 1.0)]
        logits = np.stack([logits_of(x, SIDE) * 100 for x in (NOTHING, mask, ~mask)])
        return [Prediction(logits, np.array([0.1, 0.9, 0.2], np.float32), 1.0)]


def play(model: Oracle, truth: Mask = TRUTH, *, ignored: Mask = NOTHING, clicks: int = 20) -> Session:
    predictor = PicturePredictor(model, model.encode([TRUTH])[0])
    return play_session(predictor, truth, ignored=ignored, clicks=clicks)


def test_a_session_clicks_as_the_protocol_says() -> None:
    half = TRUTH.copy()
    half[:, 40:] = False
    model = Oracle(half, TRUTH | disc(60, 80, centre=(72, 8), radius=6), TRUTH)
    session = play(model, clicks=4)
    first, second, third = model.asked[:3]
    assert (first.points, first.labels) == (((40.0, 30.0),), (1,))
    assert first.multimask_output
    assert first.mask_logits is None
    assert not second.multimask_output
    assert second.points[:1] == first.points
    assert second.labels == (1, 1)
    assert 40 <= second.points[1][0] <= 58
    assert second.mask_logits is not None
    assert (second.mask_logits.min(), second.mask_logits.max()) == (-32, 32)  # of +-800, the best of three
    assert third.labels == (1, 1, 0)
    assert third.points[2] == pytest.approx((72, 8), abs=1)
    assert session.ious[0] == pytest.approx(0.5, abs=0.05)
    assert session.ious[1] == pytest.approx(TRUTH.sum() / (TRUTH.sum() + 113), abs=0.05)
    assert session.ious[2] > 0.93
    assert len(session.ious) == 4
    assert len(session.click_times) == 4
    assert [x.predicted for x in session.first_estimates] == pytest.approx([0.1, 0.9, 0.2])
    assert session.first_estimates[0].true == 0
    assert len(session.later_estimates) == 3


def test_no_pixel_is_clicked_twice() -> None:
    model = Oracle(NOTHING)
    play(model)
    assert len(set(model.asked[-1].points)) == 20


def test_ignored_pixels_are_neither_clicked_nor_counted() -> None:
    band = disc(60, 80, centre=(40, 30), radius=21) & ~disc(60, 80, centre=(40, 30), radius=15)
    model = Oracle(disc(60, 80, centre=(40, 30), radius=20))
    session = play(model, ignored=band)
    assert session.ious == (1.0,) * 20
    assert len(model.asked) == 1
    assert iou_of(TRUTH | band, TRUTH, ignored=band) == 1
    centre_ignored = disc(60, 80, centre=(40, 30), radius=9)
    model = Oracle(NOTHING)
    play(model, ignored=centre_ignored)
    assert not any(centre_ignored[int(y), int(x)] for x, y in model.asked[-1].points)


def test_a_mask_that_is_right_needs_no_more_clicks() -> None:
    whole = np.ones((60, 80), bool)
    model = Oracle(whole)
    assert play(model, whole).ious == (1.0,) * 20
    assert len(model.asked) == 1


def test_clicks_to_an_iou() -> None:
    ious = np.array([[0.5, 0.86, 0.91], [0.9, 0.9, 0.9], [0.1, 0.2, 0.3]])
    assert clicks_to(ious, 0.85) == pytest.approx((2 + 1 + 3) / 3)
    assert clicks_to(ious, 0.90) == pytest.approx((3 + 1 + 3) / 3)


def test_correlation() -> None:
    assert correlation([Estimate(0.1, 0.2), Estimate(0.5, 0.6), Estimate(0.9, 1.0)]) == pytest.approx(1)
    assert correlation([Estimate(0.1, 1.0), Estimate(0.9, 0.0)]) == pytest.approx(-1)
    assert np.isnan(correlation([Estimate(0.5, 0.1), Estimate(0.5, 0.9)]))
    assert np.isnan(correlation([]))


def test_grabcut_finds_a_red_disc_and_does_not_fail_on_a_full_frame() -> None:
    picture = pictures()[0]
    assert grabcut_iou(picture.pixels, picture.masks[0], ignored=picture.ignored) > 0.9
    whole = np.ones_like(picture.ignored)
    assert grabcut_iou(picture.pixels, whole, ignored=picture.ignored) == 1


def test_a_whole_set() -> None:
    found = evaluate(Oracle(TRUTH), pictures(), name="oracle")
    values: dict[str, Any] = {name: getattr(found, name) for name in found.__slots__}
    assert values["objects"] == 2
    assert 0.3 < values["miou_at_1"] < 0.9  # right about the first, and shows the same for the second
    assert values["noc_85"] == pytest.approx((1 + 20) / 2)
    assert values["classical_miou"] > 0.9
    assert values["encode_ms"] >= 0
