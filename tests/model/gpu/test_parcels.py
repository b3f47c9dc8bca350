"""Batches of prompts as one array, and the few shapes that batches of any prompts have."""

import numpy as np
import pytest
import torch

from model.gpu.parcels import ABSENT, BATCH_SIZES, MOST_TOKENS, OUTPUT_TOKENS, packed, shape_of, unpacked
from model.network.point_tokens import num_point_tokens
from model.network.prompt_encoder import PADDING
from model.runner import Sam2Runner
from model.types import Embedding, Prompt
from tests.model.gpu.small_runners import CLICK, MASK, decode_one, engine_of
from tests.model.test_runner import assert_equal

pytestmark = pytest.mark.usefixtures("_one_thread")


def clicks(count: int, **others: object) -> Prompt:
    random = np.random.default_rng(count)
    points = tuple((float(x), float(y)) for x, y in random.uniform(0, 90, (count, 2)))
    return Prompt(points=points, labels=(1, 0) * (count // 2) + (1,) * (count % 2), **others)  # type: ignore[arg-type]


def test_prompts_of_any_number_of_clicks_have_few_shapes() -> None:
    """Libraries may prepare, and keep, something for every shape that they meet."""
    tokens = {num_point_tokens(clicks(count)) for count in range(1, 257)} | {0, 259}
    shapes = {shape_of(b, tokens=n, has_masks=False) for b in range(1, 65) for n in tokens}
    assert len(shapes) <= len(BATCH_SIZES) * 16
    for shape in shapes:
        assert shape.is_long == (shape.tokens > MOST_TOKENS)
        assert (
            not shape.is_long or (shape.tokens + OUTPUT_TOKENS) % 16 == 0
        )  # as attention's masks are aligned
    for n in tokens:
        filled = shape_of(3, tokens=n, has_masks=True).tokens
        assert n <= filled < max(10, 2 * n + OUTPUT_TOKENS)
        assert n > MOST_TOKENS or filled == n


def test_the_decoders_own_tokens_are_counted_right(runner: Sam2Runner) -> None:
    assert engine_of(runner)._decoding._decoder._output_tokens.shape[-2] == OUTPUT_TOKENS


def test_a_long_prompt_says_which_tokens_are_there(embeddings: list[Embedding]) -> None:
    jobs = [(embeddings[0], clicks(11)), (embeddings[1], clicks(11, multimask_output=False))]
    shape = shape_of(2, tokens=12, has_masks=False)
    assert shape.tokens == 26
    parcel = torch.from_numpy(packed(jobs, [3, 5], shape, image_size=128))
    points = unpacked(parcel, shape, torch.zeros(2, 1, 32, 32))
    assert points.slots.tolist() == [3, 5]
    assert points.is_present is not None
    assert points.is_present.sum(1).tolist() == [12, 12]
    assert points.is_present[:, :12].all()
    assert points.labels[:, :12].tolist() == [[1, 0] * 5 + [1, PADDING]] * 2
    assert int(points.labels.min()) == PADDING > ABSENT


@pytest.mark.parametrize("count", [8, 9, 10, 24, 25, 26, 60, 256])
def test_tokens_that_only_fill_up_change_no_answer(
    count: int,
    runner: Sam2Runner,
    plain: Sam2Runner,
    embeddings: list[Embedding],
    plain_embeddings: list[Embedding],
) -> None:
    for prompt in (clicks(count), clicks(count, mask_logits=MASK, multimask_output=False)):
        expected = decode_one(plain, plain_embeddings[0], prompt)
        assert_equal(decode_one(runner, embeddings[0], prompt), expected, tolerance=1e-4)


def test_long_prompts_of_a_batch_are_answered_as_alone(
    runner: Sam2Runner, embeddings: list[Embedding]
) -> None:
    jobs = [(embeddings[i % 3], clicks(12 + i % 2, multimask_output=i % 3 > 0)) for i in range(7)]
    jobs += [(embeddings[0], CLICK)]
    for job, answer in zip(jobs, runner.decode(jobs), strict=True):
        assert_equal(answer, decode_one(runner, *job), tolerance=1e-4)
