"""The little that knows CUDA, as far as it can be tried without: captures that fail, flags, copies."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from model.gpu.cuda import MOST_PINNED_BYTES, Cuda, be_faithful
from model.gpu.device import finishing
from model.gpu.options import GpuOptions
from model.network.config import VARIANTS
from model.runner import load_runner
from tests.model.gpu.small_runners import SMALL


class FakeTorchCuda:
    """Stands for torch.cuda: notes the calls, runs nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fails_at: tuple[str, ...] = ()
        self.collects: list[bool] = []
        self.pools = iter(range(100))
        note = self.note

        class Event:
            def query(self) -> bool:
                note("query")
                return True

            def synchronize(self) -> None:
                note("wait")

        class Stream:
            def __init__(self, device: torch.device, priority: int) -> None:
                self.priority = priority

            def record_event(self) -> Event:
                note("record")
                return Event()

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
            note(f"enter {stream.priority}")
            yield
            note("leave")

        for name, fake in (
            ("Event", Event),
            ("Stream", Stream),
            ("CUDAGraph", CUDAGraph),
            ("stream", stream),
        ):
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(self.pools))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: note("settle"))
        monkeypatch.setattr("model.gpu.cuda.be_faithful", lambda: note("faithful"))
        forget = lambda device, pool: note(f"forget pool {pool}")  # noqa: E731
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
    assert fake.calls == ["faithful"]
    fake.calls.clear()
    return made


def test_a_capture_is_replayed_on_its_stream(cuda: Cuda, fake: FakeTorchCuda) -> None:
    replay = cuda.clicks.capture(lambda: fake.note("work"))
    assert fake.calls == ["enter -1", "begin in pool 0", "work", "end", "leave"]
    assert fake.collects[fake.calls.index("work")] is False
    assert gc.isenabled()
    fake.calls.clear()
    replay()
    assert fake.calls == ["enter -1", "replay", "leave"]


def test_the_streams_share_no_pool_and_clicks_go_first(cuda: Cuda, fake: FakeTorchCuda) -> None:
    cuda.clicks.capture(lambda: None)
    cuda.pictures.capture(lambda: None)
    assert [call for call in fake.calls if call[:5] in ("enter", "begin")] == [
        "enter -1", "begin in pool 0", "enter 0", "begin in pool 1",
    ]  # fmt: skip


@pytest.mark.parametrize("fails_at", ["begin", "work", "end"])
def test_after_a_capture_that_failed_the_next_one_starts_afresh(
    cuda: Cuda, fake: FakeTorchCuda, fails_at: str
) -> None:
    fake.fails_at = (fails_at,)
    with pytest.raises(RuntimeError, match=rf"{fails_at}.*: operation not permitted"):
        cuda.clicks.capture(lambda: fake.note("work"))
    assert fake.calls[-1] == "forget pool 0"
    assert ("end" in fake.calls) == (fails_at != "begin")
    assert gc.isenabled()
    fake.fails_at = ()
    cuda.clicks.capture(lambda: fake.note("work"))
    assert "begin in pool 2" in fake.calls  # 1 is that of the other stream


def test_torch_may_know_already_that_a_capture_failed(cuda: Cuda, fake: FakeTorchCuda) -> None:
    fake.fails_at = ("work", "end", "forget")
    with pytest.raises(RuntimeError, match="work: operation not permitted"):
        cuda.clicks.capture(lambda: fake.note("work"))


def test_marks_are_events(cuda: Cuda, fake: FakeTorchCuda) -> None:
    mark = cuda.pictures.mark()
    assert mark.is_reached()
    mark.wait()
    cuda.settle()
    assert fake.calls == ["record", "query", "wait", "settle"]


@pytest.mark.parametrize(("size", "is_pinned"), [(1000, True), (1001, False)])
def test_uploads_are_pinned_unless_they_are_huge(
    cuda: Cuda, size: int, is_pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch never gives pinned memory back: one picture of 100 megapixels would cost half a gigabyte for good."""
    assert 10**7 < MOST_PINNED_BYTES < 10**8
    monkeypatch.setattr("model.gpu.cuda.MOST_PINNED_BYTES", 1000)
    pinned: list[tuple[int, ...]] = []

    def host_memory(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        pinned.append(shape)
        return torch.empty(shape, dtype=dtype)

    monkeypatch.setattr(cuda, "host_memory", host_memory)
    array, into = np.arange(size, dtype=np.uint8), torch.zeros(size, dtype=torch.uint8)
    cuda.clicks.upload(array, into)
    np.testing.assert_array_equal(into.numpy(), array)
    assert pinned == ([(size,)] if is_pinned else [])


def test_downloads_are_in_the_order_of_the_stream(cuda: Cuda, fake: FakeTorchCuda) -> None:
    into = torch.zeros(3)
    cuda.clicks.download(torch.ones(3), into)
    assert into.tolist() == [1, 1, 1]
    assert fake.calls == ["enter -1", "leave"]


def test_what_fails_is_waited_for(cuda: Cuda, fake: FakeTorchCuda) -> None:
    with pytest.raises(KeyError), finishing(cuda.clicks):
        raise KeyError
    assert fake.calls[:3] == ["enter -1", "record", "wait"]


def test_float32_is_float32() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = [
        (matmul, "allow_tf32"),
        (matmul, "allow_bf16_reduced_precision_reduction"),
        (matmul, "allow_fp16_reduced_precision_reduction"),
        (cudnn, "allow_tf32"),
        (cudnn, "benchmark"),
    ]
    before = [getattr(place, name) for place, name in flags]
    try:
        for place, name in flags:
            setattr(place, name, True)
        be_faithful()
        assert [getattr(place, name) for place, name in flags] == [False] * len(flags)
    finally:
        for (place, name), value in zip(flags, before, strict=True):
            setattr(place, name, value)


def test_a_cpu_says_that_it_compiles_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "small", SMALL)
    options = GpuOptions(compile="on")
    load_runner("small", checkpoint=None, device="cpu", dtype="float32", gpu_options=options)
    assert "SAM2_COMPILE=on is for GPUs; on cpu nothing is compiled." in caplog.text
