"""Places for embeddings: how many there are, who holds one and for how long, and what comes from elsewhere."""

import numpy as np
import pytest
import torch

from model.errors import DeviceOutOfMemory, NoFreeSlot
from model.gpu.options import GpuOptions
from model.gpu.room import num_slots_beside, slot_bytes
from model.network.config import VARIANTS
from model.network.sam2 import Sam2
from model.runner import Sam2Runner
from model.types import Embedding, Pixels
from tests.model.gpu.host_gpu import HostGpu, HostMark
from tests.model.gpu.small_runners import CLICK, OPTIONS, decode_one, engine_of, make_gpu_runner
from tests.model.test_runner import assert_equal

pytestmark = pytest.mark.usefixtures("_one_thread")


def test_an_embedding_takes_eight_mebibytes_in_half_precision() -> None:
    with torch.device("meta"):
        model = Sam2(VARIANTS["sam2.1_hiera_large"]).to(torch.bfloat16)
    assert slot_bytes(model) == 8 * 2**20
    assert 2 < num_slots_beside(GpuOptions()) < 18


def test_slots_are_counted_as_the_store_counts_embeddings(
    runner: Sam2Runner, embeddings: list[Embedding]
) -> None:
    engine = engine_of(runner)
    assert embeddings[0].nbytes == slot_bytes(runner.model)
    kept = len(engine.arena) - num_slots_beside(OPTIONS)
    assert runner.cache_bytes == kept * embeddings[0].nbytes == OPTIONS.cache_mib * 2**20


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


def test_a_slot_that_a_track_reads_is_not_written_before_the_reading_is_done(
    pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes memories returned while kernels ran; its caller drops the frame, and an encode has the slot."""
    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu)
    waited: list[str] = []
    mark = HostMark()
    monkeypatch.setattr(mark, "wait", lambda: waited.append(gpu.current[-1]))
    monkeypatch.setattr(gpu.pictures, "mark", lambda: mark)
    with runner.tracking._named():
        assert gpu.current == ["pictures"]
        assert not waited
    assert waited == ["pictures"]
    assert not gpu.current
    with pytest.raises(DeviceOutOfMemory), runner.tracking._named():
        raise RuntimeError("CUDA out of memory")
    assert len(waited) == 2
