"""The decoder that runs on a CPU is the plain one of the paper, arranged otherwise."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.checkpoints.parameters import untrained_parameters
from model.network.config import VARIANTS
from model.network.mask_decoder import DecoderOutput
from model.network.sam2 import Sam2
from model.runner import Sam2Runner
from model.types import Embedding, Prompt, from_subpixels, join_subpixels, to_subpixels
from tests.golden.recipe import image

SMALL = replace(VARIANTS["sam2.1_hiera_tiny"], image_size=256)
MASK = np.linspace(-9, 9, 64 * 64, dtype=np.float32).reshape(64, 64)
MANY = tuple((2.0 * i, 90.0 - i) for i in range(50))
PROMPTS = {
    "click": Prompt(points=((30.0, 40.0),), labels=(1,)),
    "box": Prompt(box=(10.0, 20.0, 80.0, 90.0)),
    "mask": Prompt(mask_logits=MASK),
    "refinement": Prompt(points=((30.0, 40.0),), labels=(0,), mask_logits=MASK),
    "more tokens than folding is worth in float32": Prompt(
        points=tuple((5.0 * i, 90.0 - 3.0 * i) for i in range(20)), labels=(1, 0) * 10
    ),
    "more tokens than folding is worth": Prompt(points=MANY, labels=(1, 0) * 25),
    "more tokens than folding is worth, and a mask": Prompt(
        points=MANY, labels=(1, 0) * 25, mask_logits=MASK
    ),
}


def make_runner(dtype: torch.dtype = torch.float32) -> Sam2Runner:
    """With random biases and norms, which an untrained model has at 0 and 1: none can be forgotten unseen."""
    with torch.device("meta"):
        model = Sam2(SMALL)
    untrained_parameters(model, device=torch.device("cpu"), dtype=torch.float32)
    chance = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=chance)
        parameter.data = parameter.data.to(dtype)
    return Sam2Runner(model, name="small", weights_fingerprint="biased")


@pytest.fixture(scope="module")
def runner() -> Sam2Runner:
    return make_runner()


@pytest.fixture(scope="module")
def embeddings(runner: Sam2Runner) -> list[Embedding]:
    return runner.encode([image("first", 120, 100), image("second", 90, 160)])


def plain(runner: Sam2Runner, jobs: Sequence[tuple[Embedding, Prompt]]) -> DecoderOutput:
    """What the modules that read like the paper make of these jobs."""
    return decode(runner, jobs, with_plain_modules=True)


def decode(
    runner: Sam2Runner,
    jobs: Sequence[tuple[Embedding, Prompt]],
    *,
    with_plain_modules: bool = False,
    keeps_order: bool = False,
) -> DecoderOutput:
    cpu_decoder = runner._cpu_decoder
    try:
        if with_plain_modules:
            runner._cpu_decoder = None
        with torch.inference_mode():
            output = runner._output(jobs, keeps_order=keeps_order)
            if with_plain_modules:
                return output
            return output._replace(
                logits=torch.stack([join_subpixels(masks, SMALL.embedding_size) for masks in output.logits])
            )
    finally:
        runner._cpu_decoder = cpu_decoder


def record_upscaling(runner: Sam2Runner, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that gets an entry for each prompt that is upscaled from now on."""
    upscaled: list[Any] = []
    assert runner._cpu_decoder is not None
    for decoder, name in ((runner._cpu_decoder, "_weigh_upscaled"), (runner._search_decoder, "_upscaled")):
        upscale = getattr(decoder, name)

        def recorded(*given: Any, upscale: Any = upscale, **named: Any) -> Any:
            upscaled.append(given)
            return upscale(*given, **named)

        monkeypatch.setattr(decoder, name, recorded)
    return upscaled


def relative_error(actual: Any, expected: Any) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def assert_close(actual: DecoderOutput, expected: DecoderOutput, *, tolerance: float) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("keeps_order", [False, True])
@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("count", [1, 3])
def test_it_equals_the_plain_decoder(
    runner: Sam2Runner,
    embeddings: list[Embedding],
    name: str,
    count: int,
    keeps_order: bool,
) -> None:
    jobs = [(embeddings[0], PROMPTS[name])] * count
    assert_close(decode(runner, jobs, keeps_order=keeps_order), plain(runner, jobs), tolerance=1e-5)


def test_pictures_may_differ_within_a_batch_and_some_prompts_have_masks(
    runner: Sam2Runner, embeddings: list[Embedding]
) -> None:
    first, second = embeddings
    jobs = [
        (first, PROMPTS["click"]),
        (second, PROMPTS["refinement"]),
        (second, PROMPTS["click"]),
        (first, PROMPTS["refinement"]),
    ]
    assert_close(decode(runner, jobs), plain(runner, jobs), tolerance=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_to_float32(
    runner: Sam2Runner, embeddings: list[Embedding], dtype: torch.dtype
) -> None:
    half = make_runner(dtype)
    (embedding,) = half.encode([image("first", 120, 100)])
    for prompt in PROMPTS.values():
        actual, expected = decode(half, [(embedding, prompt)]), plain(runner, [(embeddings[0], prompt)])
        assert actual.logits.dtype == torch.float32
        assert_close(actual, expected, tolerance=0.04)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_pictures_and_masks_of_a_batch_do_not_meet(dtype: torch.dtype) -> None:
    half = make_runner(dtype)
    first, second = half.encode([image("first", 120, 100), image("second", 90, 160)])
    before = [[x.clone() for x in (each.image_rows, *each.first_projections)] for each in (first, second)]
    masked, otherwise = PROMPTS["refinement"], replace(PROMPTS["refinement"], mask_logits=-MASK)
    many = PROMPTS["more tokens than folding is worth, and a mask"]
    jobs = [(each, PROMPTS["click"]) for each in (first, second, first)]
    jobs += [(first, masked), (second, masked), (first, otherwise), (first, many), (first, many)]
    together = [prediction.logits for prediction in half.decode(jobs)]
    alone = [half.decode([job])[0].logits for job in jobs]
    # Not bit for bit: on some CPUs (AMX) the rounding of a bfloat16 product depends on its number of rows. Another
    # picture or another mask changes far more.
    for one, other in zip(together, alone, strict=True):
        assert relative_error(one, other) < 0.02
    for one, other in ((0, 1), (0, 3), (3, 4), (3, 5)):
        assert relative_error(together[one], together[other]) > 0.1
    for embedding, unchanged in zip((first, second), before, strict=True):
        assert all(map(torch.equal, (embedding.image_rows, *embedding.first_projections), unchanged))


def test_pictures_are_decoded_while_another_is_encoded(
    runner: Sam2Runner, embeddings: list[Embedding]
) -> None:
    job = (embeddings[0], PROMPTS["click"])
    (expected,) = runner.decode([job])
    answers: list[Any] = []
    (embedding,) = runner.encode(
        [image("second", 90, 160)], between=lambda: answers.extend(runner.decode([job]))
    )
    assert len(answers) >= 2 * SMALL.trunk.depth
    for answer in answers:
        np.testing.assert_allclose(answer.logits, expected.logits, rtol=1e-3, atol=1e-4)  # threads may change
    torch.testing.assert_close(embedding.image_rows, embeddings[1].image_rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("scale", [2, 4])
def test_subpixel_order_keeps_the_pixels_of_a_cell_together(scale: int, channels: int) -> None:
    side = 3
    pixels = torch.arange(float(channels * (scale * side) ** 2))
    feature_map = pixels.view(channels, scale * side, scale * side)
    rows = to_subpixels(feature_map, side)
    assert rows.shape == ((9, 4, channels) if scale == 2 else (9, 4, 4, channels))
    middle = feature_map[0, scale : 2 * scale, scale : 2 * scale]
    assert sorted(rows[4, ..., 0].flatten().tolist()) == sorted(middle.flatten().tolist())
    assert torch.equal(from_subpixels(rows, side), feature_map)


@pytest.mark.parametrize("kind", ["at an odd place", "every third float"])
def test_masks_are_joined_wherever_they_lie_in_memory(kind: str) -> None:
    cells = torch.arange(9.0 * 16).view(1, 9, 16)
    step, start = (3, 1) if kind == "every third float" else (1, 1)
    elsewhere = torch.empty(start + step * cells.numel())[start::step][: cells.numel()].view(cells.shape)
    elsewhere.copy_(cells)
    assert torch.equal(join_subpixels(elsewhere, 3), join_subpixels(cells, 3))


@pytest.mark.parametrize("prompt", ["click", "refinement"])
@pytest.mark.parametrize("multimask", [True, False])
def test_masks_below_the_floor_are_left_out_and_a_prompt_without_others_is_not_upscaled(
    runner: Sam2Runner,
    embeddings: list[Embedding],
    monkeypatch: pytest.MonkeyPatch,
    prompt: str,
    multimask: bool,
) -> None:
    asked = replace(PROMPTS[prompt], multimask_output=multimask)
    (whole,) = runner.decode([(embeddings[0], asked)])
    upscaled = record_upscaling(runner, monkeypatch)
    floor = float(whole.iou.min()) + 1e-3
    jobs = [(embeddings[0], replace(asked, iou_floor=each)) for each in (1.0, floor, None)]
    none, some, every = runner.decode(jobs)
    assert (
        len(upscaled) == 2
    )  # the second prompt has other masks above the floor, if not those it is answered with
    assert none.logits.shape == (0, *runner.mask_size)
    assert none.iou.shape == (0,)
    np.testing.assert_allclose(every.logits, whole.logits, atol=1e-4)
    kept = every.iou > floor
    assert 0 < kept.sum() < 3 if multimask else not kept.any()
    np.testing.assert_allclose(some.iou, every.iou[kept], atol=1e-6)
    np.testing.assert_allclose(some.logits, every.logits[kept], atol=1e-4)


@pytest.mark.parametrize("better", ["the single mask", "the last of three"])
def test_only_masks_that_a_prompt_is_answered_with_make_it_upscaled(
    runner: Sam2Runner, embeddings: list[Embedding], monkeypatch: pytest.MonkeyPatch, better: str
) -> None:
    decoder, upscaled = runner._cpu_decoder, record_upscaling(runner, monkeypatch)
    assert decoder is not None
    iou = torch.tensor([[0.9, 0.1, 0.1, 0.1] if better == "the single mask" else [0.1, 0.1, 0.1, 0.9]])
    heads = decoder._heads

    def with_iou(tokens: torch.Tensor) -> Any:
        return heads(tokens)[0], (iou, torch.zeros(1))

    monkeypatch.setattr(decoder, "_heads", with_iou)
    monkeypatch.setattr(runner._search_decoder._weights, "scores", lambda tokens: (iou, torch.zeros(1)))
    click = replace(PROMPTS["click"], iou_floor=0.5)
    (several,) = runner.decode([(embeddings[0], click)])
    assert (len(several.iou), len(upscaled)) == ((0, 0) if better == "the single mask" else (1, 1))
    runner.decode([(embeddings[0], replace(click, multimask_output=False))])
    assert len(upscaled) == (1 if better == "the single mask" else 2)
