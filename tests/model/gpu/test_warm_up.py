"""Graphs of the shapes to come: ready before the first user, for few sizes, and not used where they are wrong."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from model.gpu.device import Work
from model.gpu.parcels import BATCH_SIZES, MOST_TOKENS, Shape
from model.runner import Sam2Runner
from model.types import Embedding, Pixels, Prompt
from tests.golden.recipe import image
from tests.model.gpu.host_gpu import HostGpu
from tests.model.gpu.small_runners import CLICK, MASK, OPTIONS, SMALL, decode_one, engine_of, make_gpu_runner
from tests.model.test_runner import assert_equal

pytestmark = pytest.mark.usefixtures("_one_thread")


def test_without_graphs_clicks_pass_between_the_encoders_blocks(pictures: list[Pixels]) -> None:
    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu, options=replace(OPTIONS, compile="off"))
    runner.warm_up()
    calls: list[None] = []
    runner.encode(pictures[:1], between=lambda: calls.append(None))
    assert len(calls) > SMALL.trunk.depth
    assert gpu.clicks.captures == gpu.pictures.captures == 0


def test_common_shapes_are_ready_before_the_first_user(caplog: pytest.LogCaptureFixture) -> None:
    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu)
    with caplog.at_level(logging.INFO):
        runner.warm_up()
    assert re.search(r"Prepared the encoder for batches of \[2, 1\] in \d", caplog.text)
    assert re.search(r"Prepared \d+ shapes of the decoder in \d", caplog.text)
    captures = gpu.clicks.captures, gpu.pictures.captures
    assert captures[1] == 2
    caplog.clear()
    embeddings = runner.encode([image("any", 40, 30)] * 2)
    for prompt in (CLICK, replace(CLICK, mask_logits=MASK), Prompt(box=(1.0, 2.0, 9.0, 9.0))):
        decode_one(runner, embeddings[0], prompt)
    runner.decode([(embeddings[i % 2], CLICK) for i in range(7)])
    assert (gpu.clicks.captures, gpu.pictures.captures) == captures
    assert "ERROR" not in caplog.text
    assert "first met" not in caplog.text

    three_clicks = Prompt(points=CLICK.points * 3, labels=(1, 1, 0))
    for _ in range(3):
        with caplog.at_level(logging.INFO):
            runner.decode([(embeddings[0], three_clicks)] * 3)
    assert gpu.clicks.captures == captures[0] + 1
    assert caplog.text.count("Prepared the decoder for 4 x 4 tokens, first met now") == 1


def test_long_prompts_run_without_a_graph(runner: Sam2Runner, embeddings: list[Embedding]) -> None:
    known = set(engine_of(runner)._decoding._works)
    points = tuple((float(i), float(i)) for i in range(MOST_TOKENS))
    decode_one(runner, embeddings[0], Prompt(points=points, labels=(1,) * MOST_TOKENS))
    assert set(engine_of(runner)._decoding._works) == known


def test_batches_are_filled_up_to_few_sizes(runner: Sam2Runner, embeddings: list[Embedding]) -> None:
    runner.decode([(embeddings[0], CLICK)] * 5)
    shapes = engine_of(runner)._decoding._works
    assert Shape(8, 2, has_masks=False) in shapes
    assert {shape.prompts for shape in shapes} <= set(BATCH_SIZES)


def wrong_numbers(gpu: HostGpu) -> None:
    """Graphs whose answers are off by a tenth, as after a miscompilation."""

    def capture(work: Work, *, is_idle: bool) -> Work:
        work()

        def replay() -> None:
            work()
            for rows in (runner_arena.image_rows, planes):
                rows.mul_(1.1)

        engine = engines[-1]
        runner_arena, planes = engine.arena, engine._decoding._planes
        return replay

    engines = gpu.engines  # type: ignore[attr-defined]
    gpu.clicks.capture = gpu.pictures.capture = capture


def does_nothing(gpu: HostGpu) -> None:
    """Graphs that write nothing: what was there before must not pass for an answer."""

    def capture(work: Work, *, is_idle: bool) -> Work:
        work()
        return lambda: None

    gpu.clicks.capture = gpu.pictures.capture = capture


def fails(gpu: HostGpu) -> None:
    """Captures that the device refuses."""

    def capture(work: Work, *, is_idle: bool) -> Work:
        raise RuntimeError("operation not permitted when stream is capturing")

    gpu.clicks.capture = gpu.pictures.capture = capture


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (wrong_numbers, r"The graph of the decoder for 1 x 2 tokens is wrong by 0\.1"),
        (does_nothing, "The graph of the decoder for 1 x 2 tokens is wrong by nan"),
        (fails, "No graph of the decoder for 1 x 2 tokens"),
    ],
)
def test_a_graph_that_is_wrong_is_not_used_and_the_log_says_so(
    broken: Callable[[HostGpu], None],
    said: str,
    plain: Sam2Runner,
    plain_embeddings: list[Embedding],
    pictures: list[Pixels],
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu, options=replace(OPTIONS, batch_images=1, batch_prompts=1))
    gpu.engines = [engine_of(runner)]  # type: ignore[attr-defined]
    broken(gpu)
    runner.warm_up()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert any(re.search(said, error) for error in errors)
    assert any("encoder for 1 pictures" in error for error in errors)
    (embedding,) = runner.encode(pictures[:1])
    answer = decode_one(runner, embedding)
    assert_equal(answer, decode_one(plain, plain_embeddings[0]), tolerance=1e-4)
