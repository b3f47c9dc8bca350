"""A model driven as on a GPU, on a GPU made of the CPU: the same answers as ever, whatever else goes on."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.gpu.parcels import MOST_TOKENS
from model.runner import Sam2Runner
from model.types import Embedding, Pixels, Prediction, Prompt
from tests.golden.recipe import image
from tests.model.gpu.host_gpu import LOOKS, HostGpu, HostMark
from tests.model.gpu.small_runners import MASK, decode_one, engine_of, make_gpu_runner
from tests.model.test_runner import assert_equal, prompts_of_every_kind

pytestmark = pytest.mark.usefixtures("_one_thread")


def test_embeddings_are_those_of_any_other_device(
    embeddings: list[Embedding], plain_embeddings: list[Embedding]
) -> None:
    """Three pictures in batches of two: the slots hold what the maps and the export hold elsewhere."""
    for actual, expected in zip(embeddings, plain_embeddings, strict=True):
        assert (actual.height, actual.width) == (expected.height, expected.width)
        for one, other in zip(actual.maps(), expected.maps(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        arrays, others = actual.to_arrays(np.float32), expected.to_arrays(np.float32)
        assert {name: a.shape for name, a in arrays.items()} == {name: a.shape for name, a in others.items()}


def test_prompts_of_every_kind_in_one_call_are_answered_as_on_any_other_device(
    runner: Sam2Runner,
    plain: Sam2Runner,
    embeddings: list[Embedding],
    plain_embeddings: list[Embedding],
) -> None:
    prompts = prompts_of_every_kind(MASK)
    assert max(len(p.points) for p in prompts) >= MOST_TOKENS
    pairs = list(zip(embeddings[:2], plain_embeddings[:2], strict=True))
    actual = runner.decode([(e, p) for p in prompts for e, _ in pairs])
    expected = plain.decode([(e, p) for p in prompts for _, e in pairs])
    for one, other in zip(actual, expected, strict=True):
        assert_equal(one, other, tolerance=1e-4)


def test_more_prompts_than_the_largest_batch_are_answered_in_order(
    runner: Sam2Runner, embeddings: list[Embedding]
) -> None:
    places = [(float(5 * i), float(3 * i)) for i in range(19)]
    prompts = [Prompt(points=(p,), labels=(1,), multimask_output=i % 3 > 0) for i, p in enumerate(places)]
    together = runner.decode([(embeddings[0], prompt) for prompt in prompts])
    for prompt, prediction in zip(prompts, together, strict=True):
        assert_equal(prediction, decode_one(runner, embeddings[0], prompt), tolerance=1e-5)


def test_masks_below_the_floor_are_left_out(
    runner: Sam2Runner, plain: Sam2Runner, embeddings: list[Embedding], plain_embeddings: list[Embedding]
) -> None:
    click = Prompt(points=((30.0, 40.0),), labels=(1,))
    floor = float(np.sort(decode_one(plain, plain_embeddings[0], click).iou)[:2].mean())
    prompts = [replace(click, iou_floor=each) for each in (floor, None, 1.0)]
    actual = runner.decode([(embeddings[0], prompt) for prompt in prompts])
    assert [len(prediction.iou) for prediction in actual] == [2, 3, 0]
    for prediction, prompt in zip(actual[:2], prompts[:2], strict=True):
        assert_equal(prediction, decode_one(plain, plain_embeddings[0], prompt), tolerance=1e-4)


def test_answers_stay_when_later_ones_are_made(runner: Sam2Runner, embeddings: list[Embedding]) -> None:
    first = decode_one(runner, embeddings[0])
    logits, iou = first.logits.copy(), first.iou.copy()
    decode_one(runner, embeddings[1], prompts_of_every_kind(MASK)[3])
    np.testing.assert_array_equal(first.logits, logits)
    np.testing.assert_array_equal(first.iou, iou)


def test_half_precision_stays_close(pictures: list[Pixels], plain: Sam2Runner) -> None:
    half = make_gpu_runner(dtype=torch.bfloat16)
    (embedding,), (exact,) = half.encode(pictures[:1]), plain.encode(pictures[:1])
    assert embedding.image_rows.dtype == torch.bfloat16
    actual, expected = decode_one(half, embedding), decode_one(plain, exact)
    assert np.linalg.norm(actual.logits - expected.logits) < 0.1 * np.linalg.norm(expected.logits)


def test_clicks_are_answered_while_a_picture_is_encoded(
    runner: Sam2Runner, embeddings: list[Embedding], pictures: list[Pixels]
) -> None:
    expected = decode_one(runner, embeddings[0])
    answers: list[Prediction] = []
    (embedding,) = runner.encode(
        pictures[1:2], between=lambda: answers.append(decode_one(runner, embeddings[0]))
    )
    assert len(answers) >= LOOKS
    for answer in answers:
        np.testing.assert_array_equal(answer.logits, expected.logits)
    for one, other in zip(embedding.maps(), embeddings[1].maps(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_gpu_that_hangs_is_waited_for_without_a_sign_of_life(
    pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many signs of life as clicks may pass would keep a watchdog quiet for good."""

    class Hanging(HostMark):
        def is_reached(self) -> bool:
            return False

        def wait(self) -> None:
            raise RuntimeError("hangs")

    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu)
    calls: list[None] = []
    monkeypatch.setattr("model.gpu.encoding.PATIENCE_S", 0.01)
    monkeypatch.setattr(gpu.pictures, "mark", Hanging)
    with pytest.raises(RuntimeError, match="hangs"):
        runner.encode(pictures[:1], between=lambda: calls.append(None))
    assert 1 < len(calls) < 500


def test_a_picture_that_is_too_long_for_the_gpus_filter_is_shrunk_on_the_host(
    runner: Sam2Runner, plain: Sam2Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 pixels side by side, within the limit on megapixels."""
    uploads: list[tuple[int, ...]] = []
    stream = engine_of(runner)._encoding._uploads
    upload = stream.upload
    monkeypatch.setattr(
        stream, "upload", lambda array, into: (uploads.append(array.shape), upload(array, into))
    )
    banner = np.tile(image("banner", 40, 30), (1, 500, 1))
    (actual,), (expected,) = runner.encode([banner]), plain.encode([banner])
    assert all(len(shape) == 1 for shape in uploads)
    torch.testing.assert_close(actual.image_rows, expected.image_rows, rtol=1e-4, atol=1e-4)


def test_a_picture_that_the_gpu_has_no_memory_for_is_shrunk_on_the_host(
    pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAM2_MAX_IMAGE_MEGAPIXELS may be ten times what the reserve holds; such a picture was refused each time."""
    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu)
    expected = runner.encode(pictures[:2])
    upload = gpu.uploads.upload

    def full(array: np.ndarray, into: torch.Tensor) -> None:
        if array is pictures[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.79 GiB")
        upload(array, into)

    monkeypatch.setattr(gpu.uploads, "upload", full)
    for found, known in zip(runner.encode(pictures[:2]), expected, strict=True):
        assert torch.equal(found.image_rows, known.image_rows)


def test_nothing_keeps_a_runner_alive(pictures: list[Pixels]) -> None:
    """An embedding that outlives its runner does no harm."""
    runner = make_gpu_runner()
    (embedding,) = runner.encode(pictures[:1])
    gone = weakref.ref(engine_of(runner))
    del runner
    gc.collect()
    assert gone() is None
    assert embedding.to_arrays(np.float16)["image_embed"].shape == (1, 64, 8, 8)
