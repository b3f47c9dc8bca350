"""Clicks of a search are decoded as all others are, with fewer operations."""

import gc
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.cpu.searched_picture import MOST_PICTURES
from model.runner import Sam2Runner
from model.types import Embedding, Prediction, Prompt
from tests.golden.recipe import image
from tests.model.cpu.test_decoder import PROMPTS, make_runner, plain

ALL = -1.0
"""A floor that every mask is above."""
SEARCHED = {
    "click": PROMPTS["click"],
    "box": PROMPTS["box"],
    "five clicks": Prompt(points=tuple((20.0 * i, 9.0 * i) for i in range(5)), labels=(1, 0, 1, 1, 0)),
}

pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture(scope="module")
def runner() -> Sam2Runner:
    return make_runner()


@pytest.fixture(scope="module")
def embeddings(runner: Sam2Runner) -> list[Embedding]:
    return runner.encode([image("first", 120, 100), image("second", 90, 160)])


def searching(prompt: Prompt, *, floor: float = ALL) -> Prompt:
    return replace(prompt, iou_floor=floor)


def as_it_is(_: int, prediction: Prediction) -> Prediction:
    return prediction


@pytest.mark.parametrize("name", SEARCHED)
def test_it_equals_the_plain_decoder(runner: Sam2Runner, embeddings: list[Embedding], name: str) -> None:
    first, second = embeddings
    moved = replace(SEARCHED[name], points=tuple((x + 9, y + 20) for x, y in SEARCHED[name].points))
    jobs = [(first, SEARCHED[name]), (second, SEARCHED[name]), (first, moved)]
    found = runner.decode([(embedding, searching(prompt)) for embedding, prompt in jobs])
    for job, prediction in zip(jobs, found, strict=True):
        expected = plain(runner, [job])
        masks = expected.logits[0, 1:].numpy()
        assert prediction.logits.shape == masks.shape
        assert np.linalg.norm(prediction.logits - masks) <= 1e-5 * np.linalg.norm(masks)
        np.testing.assert_allclose(prediction.iou, expected.iou[0, 1:], rtol=1e-5)
        np.testing.assert_allclose(prediction.object_score, expected.object_score[0], rtol=1e-4, atol=1e-6)


def test_prompts_are_divided_among_threads(runner: Sam2Runner, embeddings: list[Embedding]) -> None:
    jobs = [
        (embeddings[0], searching(Prompt(points=((9.0 * i, 20.0),), labels=(1,)), floor=floor))
        for i, floor in enumerate([ALL, 2.0, ALL, ALL, 0.5])
    ]
    before = torch.get_num_threads()
    alone = [runner._search_decoder.decode([job], finish=as_it_is)[0] for job in jobs]
    for threads in (2, 4):
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                together = runner._search_decoder.decode(jobs, finish=as_it_is)
        finally:
            torch.set_num_threads(before)
        for one, other in zip(together, alone, strict=True):
            assert one.logits.shape == other.logits.shape
            np.testing.assert_allclose(one.iou, other.iou, rtol=1e-5)
            assert np.linalg.norm(one.logits - other.logits) <= 1e-5 * np.linalg.norm(other.logits)


def test_what_is_decoded_is_finished_in_its_place_and_clicks_pass(
    runner: Sam2Runner, embeddings: list[Embedding]
) -> None:
    """Jobs of two pictures, of a search and not."""
    kinds = [searching(PROMPTS["click"]), searching(PROMPTS["box"], floor=2.0), PROMPTS["click"]]
    jobs = [(embeddings[i % 2], kinds[i % 3]) for i in range(12)]
    caller, passed = threading.get_ident(), list[int]()

    def between() -> None:
        assert threading.get_ident() == caller
        passed.append(len(runner.decode([(embeddings[0], PROMPTS["click"])])))

    found = runner.search(jobs, lambda place, prediction: (place, len(prediction.iou)), between=between)
    assert found == [(i, (3, 0, 3)[i % 3]) for i in range(12)]
    assert len(passed) >= 6  # twice in what is no search


def test_scores_are_computed_in_float32_in_half_precision_too() -> None:
    half = make_runner(torch.bfloat16)
    (embedding,) = half.encode([image("first", 120, 100)])
    (rounded,) = half.decode([(embedding, searching(PROMPTS["click"]))])
    single = Sam2Runner(half.model.float(), name="small", weights_fingerprint="rounded weights")
    names = ("image_rows", "feat_s0_rows", "feat_s1_rows")
    embedding = replace(embedding, **{name: getattr(embedding, name).float() for name in names})
    exact = plain(single, [(embedding, PROMPTS["click"])])
    np.testing.assert_allclose(rounded.iou, exact.iou[0, 1:], rtol=1e-5)
    masks = exact.logits[0, 1:].numpy()
    assert np.linalg.norm(rounded.logits - masks) <= 0.01 * np.linalg.norm(masks)


def test_what_is_kept_of_a_picture_goes_with_its_embedding(runner: Sam2Runner) -> None:
    kept = runner._search_decoder._pictures._kept
    kept.clear()
    several = runner.encode([image(str(i), 40, 40) for i in range(MOST_PICTURES + 1)])
    for count, embedding in enumerate(several, start=1):
        runner.decode([(embedding, searching(PROMPTS["click"]))])
        assert len(kept) == min(count, MOST_PICTURES)
    _, made = next(iter(kept.values()))
    runner.decode([(several[1], searching(PROMPTS["click"]))])
    assert len(kept) == MOST_PICTURES
    assert list(kept.values())[-1][1] is made
    del several, embedding
    gc.collect()
    assert not kept


def test_a_picture_may_be_deleted_at_any_moment_of_a_search_of_another(
    runner: Sam2Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time that the search looks whether what is kept is of its picture, another one goes."""
    pictures = runner._search_decoder._pictures
    pictures._kept.clear()
    searched, *others = runner.encode([image(str(i), 40, 40) for i in range(3)])

    class Watched(weakref.ref[torch.Tensor]):
        def __call__(self) -> torch.Tensor | None:
            found = super().__call__()
            if found is searched.image_rows and others:
                others.pop()
                gc.collect()
            return found

    monkeypatch.setattr("model.cpu.searched_picture.weakref.ref", Watched)
    for each in (0, 1):
        pictures.of(others[each])
    first = pictures.of(searched)
    assert pictures.of(searched) is first
    others.clear()
    assert len(pictures._kept) == 1
