"""The video half that runs on a CPU is the plain one of the paper, arranged otherwise."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.cpu import axial_keys, long_attention, memory_attention, products
from model.cpu.long_attention import attend, attend_relatively
from model.cpu.memory_attention import CpuMemoryAttention
from model.cpu.video_memory import CpuVideoMemory
from model.network.memory import VideoMemory
from model.network.memory_attention import Remembered
from tests.model.video.small import CONFIG, VIDEO, randomised

CELLS, CHANNELS = CONFIG.embedding_size**2, CONFIG.embed_dim


def nothing() -> None:
    """Is called between the parts of the work."""


pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["whole", "in parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small maps fit into a slice and a block; these do not divide them."""
    if request.param == "in parts":
        for module, name, size in (
            (memory_attention, "ROWS", 24),
            (memory_attention, "KERNEL_QUERIES", 24),
            (long_attention, "QUERIES", 40),
            (long_attention, "KEYS", 56),
            (axial_keys, "TOGETHER", 0),
            (axial_keys, "QUERIES", 40),
            (axial_keys, "SCORES", 5000),
        ):
            monkeypatch.setattr(module, name, size)


def video_memory(dtype: torch.dtype = torch.float32) -> VideoMemory:
    with torch.device("meta"):
        memory = VideoMemory(CONFIG)
    randomised(memory, 2)
    return memory.to(dtype).eval().requires_grad_(requires_grad=False)


def remembered(memory: VideoMemory, *, maps: int, pointers: int) -> Remembered:
    chance = torch.Generator().manual_seed(10 * maps + pointers)
    tokens = [torch.randn(CELLS, VIDEO.memory_dim, generator=chance).bfloat16() for _ in range(maps)]
    ends = [torch.randn(CHANNELS, generator=chance).to(memory.dtype) for _ in range(pointers)]
    return memory.gather(
        [(each, i % VIDEO.num_memories) for i, each in enumerate(tokens)],
        [(each, i / 15) for i, each in enumerate(ends)],
    )


def features(count: int = CELLS) -> Tensor:
    return torch.randn(count, CHANNELS, generator=torch.Generator().manual_seed(3))


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


SEEN = ((1, 1), (2, 0), (3, 0), (7, 16), (9, 2))
"""Maps and pointers. With MKL, there are no keys from three maps on."""


@torch.inference_mode()
@pytest.mark.usefixtures("parts")
def test_it_equals_the_plain_attention() -> None:
    memory = video_memory()
    seen = [remembered(memory, maps=maps, pointers=pointers) for maps, pointers in SEEN]
    found = CpuMemoryAttention(memory)(features(), seen)
    expected = memory.memory_attention(features(), seen, side=CONFIG.embedding_size)
    for one, other in zip(found, expected, strict=True):
        assert error(one, other) < 3e-6


@torch.inference_mode()
@pytest.mark.usefixtures("parts")
def test_queries_on_several_threads_find_the_same() -> None:
    memory = video_memory()
    seen = [remembered(memory, maps=3, pointers=2)]
    attention = CpuMemoryAttention(memory)
    expected = attention(features(), seen)
    torch.set_num_threads(3)
    torch.testing.assert_close(attention(features(), seen), expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("packs", [False, True])
def test_bfloat16_errs_no_more_than_in_the_plain_attention(
    packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packs:
        monkeypatch.setattr(memory_attention, "can_pack", lambda: False)
    plain, half = video_memory(), video_memory(torch.bfloat16)
    for maps, pointers in ((1, 1), (7, 16)):
        seen = [[remembered(each, maps=maps, pointers=pointers)] for each in (plain, half)]
        expected = plain.memory_attention(features(), seen[0], side=CONFIG.embedding_size)
        most = half.memory_attention(features().bfloat16(), seen[1], side=CONFIG.embedding_size)
        found = CpuMemoryAttention(half)(features().bfloat16(), seen[1])
        assert found.dtype == torch.bfloat16
        assert error(found, expected) <= 1.05 * error(most, expected)


@torch.inference_mode()
@pytest.mark.parametrize("maps", [1, 3])
def test_scores_of_any_size_are_weighed(maps: int) -> None:
    """Exponentials of these overflow, so the largest is looked for."""
    memory = video_memory()
    for layer in memory.memory_attention.layers:
        layer.cross_attn_image.q_proj.weight *= 300
    seen = [remembered(memory, maps=maps, pointers=2)]
    expected = memory.memory_attention(features(), seen, side=CONFIG.embedding_size)
    found = CpuMemoryAttention(memory)(features(), seen)
    assert found.isfinite().all()
    assert error(found, expected) < 1e-3  # what attends to one key alone magnifies rounding


def test_a_thread_writes_where_it_wrote_before_and_no_other_does() -> None:
    room = axial_keys.Room()
    first = room.take("scores", 4, 6).fill_(1)
    assert room.take("scores", 3, 8).data_ptr() == first.data_ptr()
    with ThreadPoolExecutor(1) as other:
        others = other.submit(lambda: room.take("scores", 4, 6).fill_(2)).result()
    assert others.data_ptr() != first.data_ptr()
    assert first.eq(1).all()
    assert room.take("rows", 4, 6).data_ptr() != first.data_ptr()
    assert room.take("scores", 5, 6).shape == (5, 6)


def scored(q: Tensor, k: Tensor, values: Tensor) -> Tensor:
    q, k, values = (t.double() for t in (q, k, values))
    return ((q @ k.T) * q.shape[1] ** -0.5).softmax(1) @ values


@torch.inference_mode()
@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0, -1000.0])
@pytest.mark.parametrize(("n", "m"), [(64, 64), (600, 1500), (513, 2049)])
def test_attention_in_blocks_is_attention(n: int, m: int, size: float) -> None:
    """With the largest size all scores are far above what has an exponential, or all far below."""
    torch.manual_seed(0)
    q, k, values = torch.randn(n, 32), torch.randn(m, 32), torch.randn(m, 8)
    q[:, 0], k[:, 0] = 1, size * 32**0.5 * 0.5
    torch.testing.assert_close(
        attend(q, k, values, nothing).double(), scored(q, k, values), rtol=1e-3, atol=1e-4
    )


@torch.inference_mode()
def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    k = torch.zeros(2048, 32)
    k[5], k[1500] = -400, 400  # in the first block all but nothing, in the second all
    values = torch.arange(2048.0)[:, None]
    for found in (
        attend(torch.ones(1, 32), k, values, nothing),
        attend_relatively(torch.ones(1, 32), k, values, nothing),
    ):
        torch.testing.assert_close(found, torch.tensor([[1500.0]]))


@torch.inference_mode()
@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_click_runs_while_a_track_goes_on(dtype: torch.dtype) -> None:
    """At each of the calls something else takes torch's memory, and the result stays."""
    memory = video_memory(dtype)
    cpu = CpuVideoMemory(memory)
    seen = [remembered(memory, maps=maps, pointers=2) for maps in (2, 4)]
    masks = torch.rand(2, CONFIG.image_size, CONFIG.image_size)
    frame = features().to(dtype)
    calls: list[Tensor] = []

    def disturb() -> None:
        calls.append(torch.randn(64, 64) @ torch.randn(64, 64))

    def work() -> list[Tensor]:
        conditioned = cpu.condition(frame, seen, disturb)
        stored = frame.T.unflatten(1, (CONFIG.embedding_size, -1))[None]
        return [conditioned, *cpu.remember(stored, iter(masks), torch.tensor([True, False]), disturb)]

    expected = work()
    assert all(map(torch.equal, work(), expected))
    assert len(calls) > 2 * 2 * VIDEO.attention_depth * 4


@pytest.mark.parametrize(
    ("count", "threads", "sizes"),
    [(512, 2, [512]), (784, 2, [208, 208, 208, 160]), (4096, 2, [256] * 16), (4096, 3, [240] * 17 + [16])],
)
def test_threads_get_equally_many_queries(count: int, threads: int, sizes: list[int]) -> None:
    torch.set_num_threads(threads)
    parts = torch.empty(count).split(axial_keys._queries_at_a_time(count))
    assert [len(each) for each in parts] == sizes


@pytest.mark.parametrize(
    ("count", "threads", "blocks"), [(512, 2, 1), (784, 2, 2), (4096, 2, 8), (4096, 6, 12), (4096, 12, 12)]
)
def test_threads_get_equally_many_blocks(count: int, threads: int, blocks: int) -> None:
    torch.set_num_threads(threads)
    assert long_attention._blocks(count) == blocks


@torch.inference_mode()
@pytest.mark.parametrize("maps", [1, 3])
def test_a_pause_is_never_far(maps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a large map: products of 1024 rows at most, or as many scores as are made at a time.

    The operations of oneDNN's are not counted, but the parts of the work are the same.
    """
    monkeypatch.setattr(products, "mkl_is_slow", lambda: False)
    memory, done = video_memory(), [0]
    del memory.memory_attention.layers[1:]
    memory.config = replace(CONFIG, image_size=768)
    cells = memory.config.embedding_size**2
    tokens = torch.randn(maps * cells, VIDEO.memory_dim)
    seen = [Remembered(tokens, torch.zeros_like(tokens), 0)]
    with FlopCounterMode(display=False) as counter:
        CpuMemoryAttention(memory)(features(cells), seen, lambda: done.append(counter.get_total_flops()))
    steps = [after - before for before, after in pairwise(done)]
    rows = 4 * 1024 * CHANNELS * VIDEO.attention_mlp_dim
    scores = 2 * axial_keys.SCORES * 2 * (VIDEO.memory_dim + 1)
    blocks = (
        2
        * long_attention.PAUSE
        * long_attention.QUERIES
        * long_attention.KEYS
        * (CHANNELS + VIDEO.memory_dim)
    )
    assert max(steps) <= max(rows, scores, blocks)
    assert len(steps) > 20


@torch.inference_mode()
def test_memories_are_those_of_the_plain_encoder_each_on_its_own() -> None:
    memory = video_memory()
    stored = features().T.unflatten(1, (CONFIG.embedding_size, -1))[None]
    masks, present = torch.rand(3, CONFIG.image_size, CONFIG.image_size), torch.tensor([True, False, True])
    found = CpuVideoMemory(memory).remember(stored, iter(masks), present, nothing)
    expected = memory.remember(stored, masks[:, None], present)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.float(), other.float(), rtol=2**-7, atol=1e-3)
        assert one.untyped_storage().nbytes() == one.nbytes


@torch.inference_mode()
def test_pytorchs_kernel_agrees_with_ours() -> None:
    q, k, v = (torch.randn(n, 32) for n in (100, 300, 300))
    expected = F.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None])[0, 0]
    torch.testing.assert_close(attend(q, k, v, nothing), expected, rtol=1e-4, atol=1e-5)
