"""The little that knows CUDA, as far as it can be tried without: captures that fail, copies."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import torch

from model.gpu.cuda import Cuda
from model.gpu.device import finishing
from model.gpu.host_memory import BlockSource


class FakeTorchCuda:
    """Stands for torch.cuda: notes the calls, runs nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fails_at: tuple[str, ...] = ()
        self.collects: list[bool] = []
        self.pools = iter(range(100))
        self.streams = 0
        fake, note = self, self.note

        class Event:
            def query(self) -> bool:
                note("query")
                return True

            def synchronize(self) -> None:
                note("wait")

        class Stream:
            def __init__(self, device: torch.device, priority: int) -> None:
                self.priority = priority

                self.name = f"{'captures' if len(made) > 2 else 'stream'} {priority}"  # made when needed
                made.append(self)
                fake.streams = len(made)

            def record_event(self) -> Event:
                note("record")
                return Event()

            def wait_event(self, event: Event) -> None:
                note(f"{self.name} waits")

            def wait_stream(self, other: "Stream") -> None:
                note(f"{self.name} waits for {other.name}")

        made: list[Stream] = []

        class CUDAGraph:
            def capture_begin(self, *, pool: int, capture_error_mode: str) -> None:
                assert capture_error_mode == "thread_local"
                note(f"begin in pool {pool}")

            def capture_end(self) -> None:
                note("end")

            def replay(self) -> None:
                note("replay")

        @contextmanager
        def stream(stream: Stream) -> Iterator[None]:
            note(f"enter {stream.name}")
            yield
            note("leave")

        for name, stand_in in (
            ("Event", Event),
            ("Stream", Stream),
            ("CUDAGraph", CUDAGraph),
            ("stream", stream),
        ):
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(self.pools))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: note("settle"))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: note("trim"))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
        monkeypatch.setattr("model.gpu.cuda.be_faithful", lambda: note("faithful"))
        monkeypatch.setattr("model.gpu.cuda.choose_attention", lambda: note("attention"))
        forget = lambda device, pool: note(f"forget pool {pool} of {device}")  # noqa: E731
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", forget, raising=False)

    def note(self, call: str) -> None:
        self.calls.append(call)
        self.collects.append(gc.isenabled())
        if call.startswith(self.fails_at or ("nothing",)):
            raise RuntimeError(f"{call}: operation not permitted")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTorchCuda:
    return FakeTorchCuda(monkeypatch)


@pytest.fixture
def cuda(fake: FakeTorchCuda) -> Cuda:
    made = Cuda(torch.device("cuda:0"))
    assert fake.calls == ["faithful", "attention"]
    fake.calls.clear()
    fake.collects.clear()
    return made


def test_work_runs_once_and_is_captured_on_a_stream_without_copies_and_replayed_on_its_own(
    cuda: Cuda, fake: FakeTorchCuda
) -> None:
    """An event that a thread records on a stream that is being captured fails the next pinned allocation."""
    replay = cuda.clicks.capture(lambda: fake.note("work"), is_idle=False)
    assert fake.calls == [
        "captures -1 waits for stream -1",
        "enter captures -1", "work", "begin in pool 0", "work", "end", "leave",
        "stream -1 waits for captures -1",
    ]  # fmt: skip
    assert [fake.collects[i] for i, call in enumerate(fake.calls) if call == "work"] == [True, False]
    assert gc.isenabled()
    fake.calls.clear()
    replay()
    assert fake.calls == ["enter stream -1", "replay", "leave"]


def test_before_anybody_is_served_memory_is_given_back_between_the_run_and_the_capture(
    cuda: Cuda, fake: FakeTorchCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a capture torch cannot free what it caches: it would run out of memory beside idle memory."""
    monkeypatch.setattr(cuda, "trim", lambda: fake.note("trim"))
    cuda.pictures.capture(lambda: fake.note("work"), is_idle=True)
    assert fake.calls[2:5] == ["work", "trim", "begin in pool 1"]


def test_no_stream_is_taken_for_captures_before_there_is_one(cuda: Cuda, fake: FakeTorchCuda) -> None:
    """Torch has 32 of a priority. A process that makes several of these, as the benchmark does, would have two
    capture on one stream, and the end of one's graphs free what those of the other write to.
    """
    assert fake.streams == 3
    for _ in range(2):
        cuda.pictures.capture(lambda: None, is_idle=False)
    cuda.uploads.mark()
    assert fake.streams == 4


def test_the_streams_share_no_pool_and_clicks_go_first(cuda: Cuda, fake: FakeTorchCuda) -> None:
    cuda.clicks.capture(lambda: None, is_idle=False)
    cuda.pictures.capture(lambda: None, is_idle=False)
    assert [call for call in fake.calls if call[:5] in ("enter", "begin")] == [
        "enter captures -1", "begin in pool 0", "enter captures 0", "begin in pool 1",
    ]  # fmt: skip


@pytest.mark.parametrize("fails_at", ["begin", "work", "end"])
def test_after_a_capture_that_failed_the_next_one_starts_afresh(
    cuda: Cuda, fake: FakeTorchCuda, fails_at: str
) -> None:
    runs = iter(["first run", "work", "first run", "work"])
    fake.fails_at = (fails_at,)
    with pytest.raises(RuntimeError, match=rf"{fails_at}.*: operation not permitted"):
        cuda.clicks.capture(lambda: fake.note(next(runs)), is_idle=False)
    assert fake.calls[-2:] == ["forget pool 0 of 0", "stream -1 waits for captures -1"]
    assert ("end" in fake.calls) == (fails_at != "begin")
    assert gc.isenabled()
    fake.fails_at = ()
    cuda.clicks.capture(lambda: fake.note("work"), is_idle=False)
    assert "begin in pool 3" in fake.calls  # 1 and 2 are those of the other streams


@pytest.mark.parametrize("fails_at", ["end", "nothing"])
def test_a_graph_lives_on_where_its_capture_failed_and_where_nobody_wants_it(
    cuda: Cuda, fake: FakeTorchCuda, fails_at: str
) -> None:
    """Until torch 2.12 the allocator of pinned memory keeps a pointer to one that failed. Since then one that goes
    frees the workspaces of cuBLAS, to which the other graphs of its stream write.
    """
    graphs: list[weakref.ref[object]] = []
    begin = torch.cuda.CUDAGraph.capture_begin

    def remember(graph: torch.cuda.CUDAGraph, **options: Any) -> None:
        graphs.append(weakref.ref(graph))
        begin(graph, **options)

    torch.cuda.CUDAGraph.capture_begin = remember  # type: ignore[method-assign]  # of the fake
    fake.fails_at = (fails_at,)
    with suppress(RuntimeError):
        cuda.clicks.capture(lambda: None, is_idle=False)
    gc.collect()
    assert graphs[0]() is not None


def test_torch_may_know_already_that_a_capture_failed(cuda: Cuda, fake: FakeTorchCuda) -> None:
    fake.fails_at = ("begin", "end", "forget")
    with pytest.raises(RuntimeError, match="begin in pool 0: operation not permitted"):
        cuda.clicks.capture(lambda: None, is_idle=False)


def test_a_device_without_a_number_is_the_current_one(fake: FakeTorchCuda) -> None:
    """Where torch is told about a failed capture, it wants the number: not always 0."""
    cuda = Cuda(torch.device("cuda"))
    assert cuda.device == torch.device("cuda:3")
    fake.fails_at = ("end",)
    with pytest.raises(RuntimeError, match="end"):
        cuda.clicks.capture(lambda: None, is_idle=False)
    assert "forget pool 0 of 3" in fake.calls


def test_marks_are_events(cuda: Cuda, fake: FakeTorchCuda) -> None:
    mark = cuda.pictures.mark()
    assert mark.is_reached()
    mark.wait()
    cuda.settle()
    assert fake.calls == ["record", "query", "wait", "settle"]


def test_a_stream_waits_for_a_mark_of_another(cuda: Cuda, fake: FakeTorchCuda) -> None:
    cuda.pictures.after(cuda.uploads.mark())
    assert fake.calls == ["record", "stream 0 waits"]


@pytest.mark.parametrize("count", [1, 499, 500, 501, 1000, 4321])
def test_uploads_of_any_size_go_through_two_blocks(
    fake: FakeTorchCuda, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of 100 megapixels would otherwise hold half a gigabyte of pinned memory for good."""
    taken: list[int] = []

    def take(source: BlockSource, nbytes: int) -> torch.Tensor:
        taken.append(nbytes)
        return torch.empty(nbytes, dtype=torch.uint8)

    monkeypatch.setattr(BlockSource, "take", take)
    monkeypatch.setattr("model.gpu.host_memory.Staging.__init__.__kwdefaults__", {"piece_bytes": 1000})
    cuda = Cuda(torch.device("cuda:0"))
    for shift in range(3):
        array, into = np.arange(count, dtype=np.int16) + shift, torch.zeros(count, dtype=torch.int16)
        cuda.clicks.upload(array, into)
        np.testing.assert_array_equal(into.numpy(), array)
    assert taken == [1000] * len(taken)
    assert len(taken) == 2
    assert fake.calls.count("wait") == fake.calls.count("record") - 2


def test_memory_is_measured_beside_what_is_held_and_with_empty_caches(
    cuda: Cuda, fake: FakeTorchCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved = iter([1000])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: next(reserved))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: fake.note("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 1700)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))
    assert cuda.peak_bytes(lambda: fake.note("work")) == 700
    assert fake.calls == ["settle", "trim", "reset", "work", "settle", "settle", "trim"]
    fake.calls.clear()
    assert cuda.free_bytes() == 123
    assert fake.calls == ["settle", "trim"]


def test_results_are_pinned_and_never_given_back(
    fake: FakeTorchCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, dict[str, Any]]] = []
    empty = torch.empty

    def pinned(size: int, **options: Any) -> torch.Tensor:
        asked.append((size, options))
        return empty(size, dtype=torch.uint8)

    cuda = Cuda(torch.device("cuda:0"))
    monkeypatch.setattr(torch, "empty", pinned)
    for _ in range(5):
        assert cuda.host_memory(3, 64, 64, dtype=torch.float32).shape == (3, 64, 64)
    assert asked == [(65536, {"dtype": torch.uint8, "pin_memory": True})]


def test_downloads_are_in_the_order_of_the_stream(cuda: Cuda, fake: FakeTorchCuda) -> None:
    into = torch.zeros(3)
    cuda.clicks.download(torch.ones(3), into)
    assert into.tolist() == [1, 1, 1]
    assert fake.calls == ["enter stream -1", "leave"]


def test_what_fails_is_waited_for(cuda: Cuda, fake: FakeTorchCuda) -> None:
    with pytest.raises(KeyError), finishing(cuda.clicks):
        raise KeyError
    assert fake.calls[:3] == ["enter stream -1", "record", "wait"]
