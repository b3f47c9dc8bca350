"""A model driven as on a GPU, on a GPU made of the CPU: the same answers as ever, whatever else goes on."""

import gc
import logging
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.checkpoint import untrained_parameters
from model.config import VARIANTS, HieraConfig, Sam2Config
from model.errors import NoFreeSlot
from model.gpu.decoding import BATCH_SIZES, MOST_TOKENS, Shape
from model.gpu.device import Work
from model.gpu.engine import GpuEngine, num_slots, slot_bytes
from model.gpu.options import GpuOptions
from model.runner import Sam2Runner
from model.sam2 import Sam2
from model.types import Embedding, Pixels, Prediction, Prompt
from tests.golden.recipe import image
from tests.host_gpu import LOOKS, HostGpu, HostMark
from tests.model.test_runner import assert_equal, make_runner, prompts_of_every_kind

SMALL = Sam2Config(
    HieraConfig(embed_dim=16, num_heads=1, stages=(1, 1, 2, 1), global_attention_blocks=(3,)),
    image_size=128,
    embed_dim=64,
)
"""Every layer there is, and small: a picture takes milliseconds."""

CLICK = Prompt(points=((30.0, 40.0),), labels=(1,))
MASK = np.linspace(-9, 9, 32 * 32, dtype=np.float32).reshape(32, 32)
OPTIONS = GpuOptions(cache_mib=1, batch_images=2, batch_prompts=8)


def make_gpu_runner(
    *, gpu: HostGpu | None = None, options: GpuOptions = OPTIONS, dtype: torch.dtype = torch.float32
) -> Sam2Runner:
    with torch.device("meta"):
        model = Sam2(SMALL)
    untrained_parameters(model, device=HostGpu.device, dtype=dtype)
    return Sam2Runner(model, name="gpu", weights_fingerprint="gpu", gpu=gpu or HostGpu(), gpu_options=options)


def engine_of(runner: Sam2Runner) -> GpuEngine:
    assert runner._engine is not None
    return runner._engine


def decode_one(runner: Sam2Runner, embedding: Embedding, prompt: Prompt = CLICK) -> Prediction:
    return runner.decode([(embedding, prompt)])[0]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads wait for each other more than they do for tensors as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain() -> Sam2Runner:
    """The same weights without a GPU."""
    return make_runner(SMALL)


@pytest.fixture(scope="module")
def runner() -> Sam2Runner:
    runner = make_gpu_runner()
    runner.warm_up()
    return runner


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    return [image("first", 320, 200), image("second", 90, 160), image("third", 100, 100)]


@pytest.fixture(scope="module")
def plain_embeddings(plain: Sam2Runner, pictures: list[Pixels]) -> list[Embedding]:
    return plain.encode(pictures)


@pytest.fixture(scope="module")
def embeddings(runner: Sam2Runner, pictures: list[Pixels]) -> list[Embedding]:
    return runner.encode(pictures)


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


def test_an_embedding_takes_eight_mebibytes_in_half_precision() -> None:
    with torch.device("meta"):
        model = Sam2(VARIANTS["sam2.1_hiera_large"]).to(torch.bfloat16)
    assert slot_bytes(model) == 8 * 2**20
    assert 512 < num_slots(model, GpuOptions(cache_mib=4096)) < 530
    assert num_slots(model, GpuOptions(cache_mib=1)) > 1


def test_slots_are_counted_as_the_store_counts_embeddings(
    runner: Sam2Runner, embeddings: list[Embedding]
) -> None:
    engine = engine_of(runner)
    assert embeddings[0].nbytes == slot_bytes(runner.model)
    assert len(engine.arena) == num_slots(runner.model, OPTIONS)
    assert len(engine.arena) * embeddings[0].nbytes >= OPTIONS.cache_mib * 2**20


def test_a_dropped_embedding_makes_room_for_the_next(pictures: list[Pixels]) -> None:
    runner = make_gpu_runner()
    arena = engine_of(runner).arena
    held = [runner.encode([pictures[0]])[0] for _ in range(len(arena))]
    assert arena.num_free == 0
    with pytest.raises(NoFreeSlot, match=rf"The {len(arena)} places .* 2 wanted, 0 free"):
        runner.encode(pictures[:2])
    slot = arena.slot_of(held[3])
    del held[3]
    assert arena.num_free == 1
    with pytest.raises(NoFreeSlot, match="2 wanted, 1 free"):
        runner.encode(pictures[:2])
    assert arena.num_free == 1
    (embedding,) = runner.encode(pictures[1:2])
    assert arena.slot_of(embedding) == slot
    for number in range(500):  # steady state: no slot is lost
        held[number % len(held)] = held[(number + 1) % len(held)]
    del held, embedding
    assert arena.num_free == len(arena)


def test_an_embedding_that_is_being_decoded_keeps_its_slot(pictures: list[Pixels]) -> None:
    """Evicted while its prompt waits: the prompt is answered first."""
    runner = make_gpu_runner()
    arena = engine_of(runner).arena
    jobs = [(runner.encode([pictures[0]])[0], CLICK)]
    assert arena.num_free == len(arena) - 1
    runner.decode(jobs)
    assert arena.num_free == len(arena) - 1
    jobs.clear()
    assert arena.num_free == len(arena)


def test_an_encode_that_fails_gives_its_slots_back(pictures: list[Pixels]) -> None:
    runner = make_gpu_runner()
    arena = engine_of(runner).arena

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.encode(pictures, between=fail)
    assert arena.num_free == len(arena)


def test_an_embedding_from_elsewhere_is_decoded_too(
    runner: Sam2Runner, embeddings: list[Embedding], plain_embeddings: list[Embedding], pictures: list[Pixels]
) -> None:
    """From a tier below the GPU's memory, say, or from another runner's arena."""
    free = engine_of(runner).arena.num_free
    expected = decode_one(runner, embeddings[0])
    assert_equal(decode_one(runner, plain_embeddings[0]), expected, tolerance=1e-4)
    (foreign,) = make_gpu_runner().encode(pictures[:1])
    assert_equal(decode_one(runner, foreign), expected, tolerance=1e-4)
    assert engine_of(runner).arena.num_free == free


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


def test_an_embedding_that_was_moved_to_the_host_comes_back(
    runner: Sam2Runner, embeddings: list[Embedding], pictures: list[Pixels]
) -> None:
    arena = engine_of(runner).arena
    (embedding,) = runner.encode(pictures[:1])
    on_host = embedding.to_host()
    free = arena.num_free
    back = runner.adopt(on_host)
    assert arena.num_free == free - 1
    assert runner.adopt(back) is back
    np.testing.assert_array_equal(decode_one(runner, back).logits, decode_one(runner, embeddings[0]).logits)


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

    def capture(work: Work) -> Work:
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
    gpu.clicks.capture = gpu.pictures.capture = lambda work: lambda: None


def fails(gpu: HostGpu) -> None:
    """Captures that the device refuses."""

    def capture(work: Work) -> Work:
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


def test_too_little_memory_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 4.00 GiB")

    monkeypatch.setattr("model.gpu.engine.Arena", refuse)
    with pytest.raises(
        ValueError, match=r"SAM2_DEVICE_CACHE_MIB=1 asks for room for \d+ embeddings .* 4\.00 GiB"
    ):
        make_gpu_runner()


def test_a_picture_that_is_too_long_for_the_gpus_filter_is_shrunk_on_the_host(
    runner: Sam2Runner, plain: Sam2Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 pixels side by side, within the limit on megapixels."""
    uploads: list[tuple[int, ...]] = []
    stream = engine_of(runner)._encoding._stream
    upload = stream.upload
    monkeypatch.setattr(
        stream, "upload", lambda array, into: (uploads.append(array.shape), upload(array, into))
    )
    banner = np.tile(image("banner", 40, 30), (1, 500, 1))
    (actual,), (expected,) = runner.encode([banner]), plain.encode([banner])
    assert all(len(shape) == 1 for shape in uploads)
    torch.testing.assert_close(actual.image_rows, expected.image_rows, rtol=1e-4, atol=1e-4)


def test_nothing_keeps_a_runner_alive(pictures: list[Pixels]) -> None:
    """An embedding that outlives its runner does no harm."""
    runner = make_gpu_runner()
    (embedding,) = runner.encode(pictures[:1])
    gone = weakref.ref(engine_of(runner))
    del runner
    gc.collect()
    assert gone() is None
    assert embedding.to_arrays(np.float16)["image_embed"].shape == (1, 64, 8, 8)
