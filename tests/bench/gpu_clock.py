"""Times on a GPU's own clock: of a runner's decode from first copy to last, and of work that is captured once.

Does not know what is timed.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from model.gpu.device import GpuDevice, Mark, Stream

HEAD_START_CYCLES = 6_000_000
"""The GPU spins for about 3 ms before a timed call, in which the host packs, pins and launches all of it: what is
timed then follows without gaps."""


class Stamp(Protocol):
    """A moment."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds until a later one."""


class HostStamp:
    """A moment of the host, which is the device of a rehearsal."""

    def __init__(self) -> None:
        self.seconds = perf_counter()

    def elapsed_time(self, end: "HostStamp") -> float:
        """See Stamp."""
        return 1000 * (end.seconds - self.seconds)


class Clocked:
    """A GpuDevice that can tell when the work of a click began and ended; otherwise the one that it wraps."""

    def __init__(self, gpu: GpuDevice) -> None:
        self._gpu = gpu
        self.clicks: Stream = _ClockedStream(gpu.clicks, self)  # type: ignore[assignment]
        self.is_running = False
        self.begin: Stamp | None = None
        self.end: Stamp | None = None

    def __getattr__(self, name: str) -> Any:
        """All else is the device's own."""
        return getattr(self._gpu, name)

    def median_ms(self, decode: Callable[[], object], *, count: int) -> float:
        """Device time of a decode, first copy to last, median of `count` calls."""
        times = []
        for _ in range(count):
            self.begin = self.end = None
            self.is_running = True
            try:
                decode()
            finally:
                self.is_running = False
            self._gpu.settle()
            if self.begin is None or self.end is None:
                raise LookupError(
                    "a decode has uploaded nothing on the stream for clicks, or has not marked it"
                )
            times.append(self.begin.elapsed_time(self.end))
        return median(times)

    def stamp(self) -> Stamp:
        """Now, in the stream that is current."""
        if self._gpu.device.type != "cuda":
            return HostStamp()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def take_a_head_start(self) -> None:
        """Keep the device busy while the host prepares."""
        if self._gpu.device.type == "cuda":
            torch.cuda._sleep(HEAD_START_CYCLES)


class _ClockedStream:
    """A stream that stamps its first upload and its last mark, while the clock runs."""

    def __init__(self, stream: Stream, clock: Clocked) -> None:
        self._stream, self._clock = stream, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def upload(self, array: npt.NDArray[Any], into: Tensor) -> None:
        """See Stream."""
        if self._clock.is_running and self._clock.begin is None:
            with self._stream.current():
                self._clock.take_a_head_start()
                self._clock.begin = self._clock.stamp()
        self._stream.upload(array, into)

    def mark(self) -> Mark:
        """See Stream."""
        if self._clock.is_running:
            with self._stream.current():
                self._clock.end = self._clock.stamp()
        return self._stream.mark()


def replayed_ms(work: Callable[[], object], *, device: str, count: int) -> float:
    """Device time of work between tensors that stay where they are, as a graph; median of `count`.

    On a CPU the work itself is timed. What a capture raises passes.
    """
    if device == "cpu":
        work()
        begins_ends = [(HostStamp(), work(), HostStamp()) for _ in range(count)]
        return median(begin.elapsed_time(end) for begin, _, end in begins_ends)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = work()
    times = []
    with torch.cuda.stream(stream):
        for _ in range(count):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            stream.synchronize()
            times.append(begin.elapsed_time(end))
    del kept
    return median(times)
