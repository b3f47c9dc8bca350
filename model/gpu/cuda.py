"""NVIDIA's GPUs: streams, events, pinned memory, captured graphs. Beside runner.py the only file that names CUDA.

Knows nothing of models. Nothing here is proved without a GPU, so there is as little as can be.
"""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from model.gpu.device import Mark, Stream, Work

MOST_PINNED_BYTES = 64 * 2**20
"""Larger uploads go through the driver's own buffers: torch keeps pinned memory for good, in powers of two."""

HIGH_PRIORITY, NORMAL_PRIORITY = -1, 0
"""When a multiprocessor has room, the stream with the lower number gets it. What runs is not interrupted."""


class Cuda:
    """Implements GpuDevice. Sets the process's rules for float32 on this device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        be_faithful()
        self._clicks = _CudaStream(self, HIGH_PRIORITY)
        self._pictures = _CudaStream(self, NORMAL_PRIORITY)

    @property
    def clicks(self) -> Stream:
        """See GpuDevice."""
        return self._clicks

    @property
    def pictures(self) -> Stream:
        """See GpuDevice."""
        return self._pictures

    def host_memory(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """See GpuDevice. Pinned; freed memory is reused once the copies that torch knows of are done."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def settle(self) -> None:
        """See GpuDevice."""
        torch.cuda.synchronize(self.device)


def be_faithful() -> None:
    """Float32 is float32, and half precision is summed up in float32.

    TF32 keeps 10 bits of the mantissa, and attention enlarges what that loses; bfloat16 is for those who want speed
    instead. cuDNN chooses its convolutions by rule, not by trial: trials make starts slower and may end otherwise
    each time, and convolutions are a hundredth of the work.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = False


class _CudaMark:
    """Implements Mark."""

    def __init__(self, event: torch.cuda.Event) -> None:
        self._event = event

    def is_reached(self) -> bool:
        """See Mark."""
        return self._event.query()

    def wait(self) -> None:
        """See Mark."""
        self._event.synchronize()


class _CudaStream:
    """Implements Stream."""

    def __init__(self, cuda: Cuda, priority: int) -> None:
        self._cuda = cuda
        self._stream = torch.cuda.Stream(cuda.device, priority=priority)
        # A pool of its own: graphs of the two streams run at the same time, and must not share memory.
        self._pool = torch.cuda.graph_pool_handle()

    def current(self) -> AbstractContextManager[None]:
        """See Stream."""
        return torch.cuda.stream(self._stream)

    def mark(self) -> Mark:
        """See Stream."""
        return _CudaMark(self._stream.record_event())

    def upload(self, array: npt.NDArray[Any], into: Tensor) -> None:
        """See Stream."""
        source = torch.from_numpy(array)
        if array.nbytes <= MOST_PINNED_BYTES:
            source = self._cuda.host_memory(*source.shape, dtype=source.dtype).copy_(source)
        with self.current():
            # torch does not give pinned memory away again before this copy is done; from other memory it is not
            # asynchronous.
            into.copy_(source, non_blocking=True)

    def download(self, tensor: Tensor, into: Tensor) -> None:
        """See Stream."""
        with self.current():
            into.copy_(tensor, non_blocking=True)

    def capture(self, work: Work) -> Work:
        """See Stream."""
        graph = torch.cuda.CUDAGraph()
        # Not torch.cuda.graph, which waits for the whole device and empties its caches at every capture: an encode
        # may be running on the other stream.
        with self.current(), _no_garbage_collection():
            try:
                # Only what this thread does can spoil the capture; threads that copy embeddings to the host go on.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    work()
                except BaseException:
                    with suppress(RuntimeError):
                        graph.capture_end()
                    raise
                graph.capture_end()
            except BaseException:
                self._leave_pool()
                raise

        def replay() -> None:
            with self.current():
                graph.replay()

        return replay

    def _leave_pool(self) -> None:
        """Leave the pool of a capture that failed to its fate, and go on with a new one.

        Until torch 2.12 a capture that ends in an error leaves the allocator believing that it goes on
        (pytorch/pytorch#180395); it is told here. Where torch has told it already, it refuses, and all is well.
        """
        with suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(self._cuda.device.index or 0, self._pool)
        self._pool = torch.cuda.graph_pool_handle()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection amid a capture could destroy an event or a graph, which a capture does not survive."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
