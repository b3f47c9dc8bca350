"""NVIDIA's GPUs: streams, events, pinned memory, captured graphs.

Beside devices.py and runner.py the only file that calls torch.cuda. Does not know about models. Nothing here is
proved without a GPU, so there is as little as can be.
"""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from typing import Any, cast

import numpy.typing as npt
import torch
from torch import Tensor

from model.gpu.device import Mark, Stream, Work
from model.gpu.host_memory import BlockSource, ResultBlocks, Staging

HIGH_PRIORITY, NORMAL_PRIORITY = -1, 0
"""When a multiprocessor has room, the stream with the lower number gets it. What runs is not interrupted."""


class Cuda:
    """Implements GpuDevice. Sets the process's rules for float32 and attention on this device."""

    def __init__(self, device: torch.device) -> None:
        """`device` without an index is the current one, as elsewhere in torch."""
        has_index = ":" in str(device)
        self.device = device if has_index else torch.device(device.type, torch.cuda.current_device())
        be_faithful()
        choose_attention()
        self._pinned = BlockSource(lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=True))
        self._results = ResultBlocks(self._pinned)
        self._clicks = _CudaStream(self, HIGH_PRIORITY)
        self._pictures = _CudaStream(self, NORMAL_PRIORITY)
        self._uploads = _CudaStream(self, NORMAL_PRIORITY)

    @property
    def clicks(self) -> Stream:
        """See GpuDevice."""
        return self._clicks

    @property
    def pictures(self) -> Stream:
        """See GpuDevice."""
        return self._pictures

    @property
    def uploads(self) -> Stream:
        """See GpuDevice."""
        return self._uploads

    @property
    def pinned(self) -> BlockSource:
        """Where blocks for copies come from."""
        return self._pinned

    def host_memory(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """See GpuDevice. Pinned, unless there is none left."""
        return self._results.lend(*shape, dtype=dtype)

    def settle(self) -> None:
        """See GpuDevice."""
        torch.cuda.synchronize(self.device)

    def trim(self) -> None:
        """See GpuDevice."""
        self.settle()
        torch.cuda.empty_cache()

    def free_bytes(self) -> int:
        """See GpuDevice. Of all processes on it."""
        self.trim()
        free, _ = torch.cuda.mem_get_info(self.device)
        return free

    def peak_bytes(self, work: Work) -> int:
        """See GpuDevice. Whole segments, as a graph's pool takes them."""
        self.trim()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_reserved(self.device)
        work()
        self.settle()
        peak = torch.cuda.max_memory_reserved(self.device) - before
        self.trim()
        return peak


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


def choose_attention() -> None:
    """Flash attention, or the memory-efficient kernel where that does not fit; never cuDNN's.

    On Hopper and later torch prefers cuDNN's, which builds a plan of 50 to 1000 ms for every new shape, and keeps
    all of them. A new number of clicks would stop the server for that long. For the decoder's few tokens it has
    nothing to win, and for the encoder's windows little.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    torch.backends.cuda.enable_math_sdp(True)


class _CudaMark:
    """Implements Mark."""

    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    def is_reached(self) -> bool:
        """See Mark."""
        return self.event.query()

    def wait(self) -> None:
        """See Mark."""
        self.event.synchronize()


class _CudaStream:
    """Implements Stream."""

    def __init__(self, cuda: Cuda, priority: int) -> None:
        self._cuda = cuda
        self._priority = priority
        self._stream = torch.cuda.Stream(cuda.device, priority=priority)
        # A pool of its own: graphs of the two streams run at the same time, and must not share memory.
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []
        """All that were begun, used or not: see `_captured` and `_leave_pool`."""
        self._staging = Staging(cuda.pinned)

    @cached_property
    def _captures(self) -> torch.cuda.Stream:
        """Captures have a stream of their own, of the same priority, which their kernels keep.

        No copy ever goes there: an event that another thread records on a stream that is being captured makes the
        next allocation fail. Not before it is needed: torch has 32 streams of a priority and then gives the first
        one again, and the end of a graph would take the workspaces of all that were captured there (`_captured`).
        """
        return torch.cuda.Stream(self._cuda.device, priority=self._priority)

    def current(self) -> AbstractContextManager[None]:
        """See Stream."""
        return torch.cuda.stream(self._stream)

    def mark(self) -> Mark:
        """See Stream."""
        return _CudaMark(self._stream.record_event())

    def after(self, mark: Mark) -> None:
        """See Stream."""
        self._stream.wait_event(cast(_CudaMark, mark).event)

    def upload(self, array: npt.NDArray[Any], into: Tensor) -> None:
        """See Stream."""
        with self.current():
            for staged, place in self._staging.pieces(torch.from_numpy(array), into, self.mark):
                place.copy_(staged, non_blocking=True)

    def download(self, tensor: Tensor, into: Tensor) -> None:
        """See Stream."""
        with self.current():
            into.copy_(tensor, non_blocking=True)

    def capture(self, work: Work, *, is_idle: bool) -> Work:
        """See Stream."""
        self._captures.wait_stream(self._stream)
        try:
            with torch.cuda.stream(self._captures):
                work()
                if is_idle:
                    self._cuda.trim()
                graph = self._captured(work)
        except BaseException:
            with suppress(RuntimeError):  # the first error says more
                self._stream.wait_stream(self._captures)
            raise
        self._stream.wait_stream(self._captures)

        def replay() -> None:
            with self.current():
                graph.replay()

        return replay

    def _captured(self, work: Work) -> torch.cuda.CUDAGraph:
        """Capture work on the stream that is current.

        Not by torch.cuda.graph, which waits for the whole device and empties its caches at every capture: an encode
        may be running on another stream.

        The graph lives on, though nobody may want it in the end: since torch 2.12 one that goes takes cuBLAS's
        workspaces for its stream with it, to which other graphs captured there write (pytorch/pytorch#193402).
        """
        graph = torch.cuda.CUDAGraph()
        self._graphs.append(graph)
        with _no_garbage_collection():
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
        return graph

    def _leave_pool(self) -> None:
        """Leave the pool of a capture that failed to its fate, and go on with a new one.

        Until torch 2.12 a capture that ends in an error leaves the allocator believing that it goes on
        (pytorch/pytorch#180395); it is told here. Where torch has told it already, it refuses, and all is well. The
        allocator of pinned memory cannot be told, and keeps a pointer to the graph, which is kept in any case.
        """
        with suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(self._cuda.device.index, self._pool)
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
