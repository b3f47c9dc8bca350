"""What the errors of a GPU mean: too little memory, a device that is lost, or neither."""

import numpy as np
import pytest
import torch

from model.errors import DeviceLost, DeviceOutOfMemory
from model.gpu.faults import is_out_of_memory
from model.runner import Sam2Runner
from model.types import Embedding, Pixels
from tests.model.gpu.host_gpu import HostGpu
from tests.model.gpu.small_runners import CLICK, engine_of, make_gpu_runner

pytestmark = pytest.mark.usefixtures("_one_thread")

ILLEGAL = RuntimeError(
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),  # cudaGraphInstantiate, cudaHostAlloc
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError(
            'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1154'
        ),
    ],
)
def test_all_lack_of_memory_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [ILLEGAL, RuntimeError("shapes do not match"), ValueError("out of memory")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


def broken(runner: Sam2Runner, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    for part in ("_encoding", "_decoding"):
        for name in ("encode", "decode", "adopt", "warm_up"):
            monkeypatch.setattr(getattr(engine_of(runner), part), name, fail, raising=False)


def test_an_error_that_stays_is_a_lost_device(
    pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu)
    (embedding,) = runner.encode(pictures[:1])
    broken(runner, ILLEGAL, monkeypatch)
    gpu.is_lost = True
    for call in (
        lambda: runner.encode(pictures[:1]),
        lambda: runner.decode([(embedding, CLICK)]),
        lambda: runner.adopt(embedding),
        runner.warm_up,
    ):
        with pytest.raises(
            DeviceLost, match="cpu has failed: CUDA error: an illegal memory access"
        ) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_an_error_that_passes_is_raised_as_it_is(
    pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_gpu_runner()
    broken(runner, ILLEGAL, monkeypatch)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        runner.encode(pictures[:1])


def after_lack_of_memory(
    gpu: HostGpu, pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> tuple[Sam2Runner, Embedding]:
    """A runner whose last encode did not fit, and an embedding that it made before."""
    runner = make_gpu_runner(gpu=gpu)
    (embedding,) = runner.encode(pictures)
    with monkeypatch.context() as patch:
        broken(runner, RuntimeError("CUDA error: out of memory"), patch)
        with pytest.raises(DeviceOutOfMemory):
            runner.encode(pictures)
    return runner, embedding


def test_after_lack_of_memory_the_next_batch_starts_with_empty_caches(
    pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: the error's frames hold what did not fit."""
    gpu = HostGpu()
    runner, embedding = after_lack_of_memory(gpu, pictures[:1], monkeypatch)
    assert gpu.trims == 0
    for _ in range(2):
        runner.decode([(embedding, CLICK)])
        assert gpu.trims == 1


def test_a_device_that_is_lost_after_lack_of_memory_is_known_to_be_lost(
    pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emptying the caches then fails, before the batch begins, and each time."""
    gpu = HostGpu()
    runner, embedding = after_lack_of_memory(gpu, pictures[:1], monkeypatch)
    gpu.is_lost = True
    with pytest.raises(DeviceLost, match="illegal memory access"):
        runner.decode([(embedding, CLICK)])


@pytest.mark.parametrize(
    "refusal",
    [
        RuntimeError("CUDA error: out of memory"),  # of cudaGraphInstantiate
        torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture"),
    ],
)
def test_a_graph_that_the_driver_refuses_once_is_tried_again_later(
    refusal: Exception,
    pictures: list[Pixels],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu)
    (embedding,) = runner.encode(pictures[:1])
    expected = runner.decode([(embedding, CLICK)])[0]
    fresh = make_gpu_runner(gpu=gpu)
    (embedding,) = fresh.encode(pictures[:1])
    captures = gpu.clicks.captures

    def full(*_: object, **__: object) -> None:
        raise refusal

    now = [100.0]
    monkeypatch.setattr("model.gpu.decoding.monotonic", lambda: now[0])
    with monkeypatch.context() as patch:
        patch.setattr(gpu.clicks, "capture", full)
        for _ in range(3):
            answer = fresh.decode([(embedding, CLICK)])[0]
            np.testing.assert_array_equal(answer.logits, expected.logits)
    assert caplog.text.count("No graph of the decoder for 1 x 2 tokens now") == 1
    assert gpu.trims == 1
    fresh.decode([(embedding, CLICK)])
    assert gpu.clicks.captures == captures
    now[0] += 61
    fresh.decode([(embedding, CLICK)])
    assert gpu.clicks.captures == captures + 1


def test_a_device_lost_in_a_capture_is_not_taken_for_a_bad_graph(
    pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu)
    (embedding,) = runner.encode(pictures[:1])

    def fail(*_: object, **__: object) -> None:
        gpu.is_lost = True
        raise ILLEGAL

    monkeypatch.setattr(gpu.clicks, "capture", fail)
    with pytest.raises(DeviceLost):
        runner.decode([(embedding, CLICK)])
