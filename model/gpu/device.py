"""What the rest of this folder asks of a GPU: three streams, copies that nobody waits for, captured graphs.

cuda.py gives it on NVIDIA's GPUs, tests/model/gpu/host_gpu.py on a CPU. Does not know about models.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

Work = Callable[[], None]
"""Launches work between tensors that stay where they are; returns before that work is done."""


class Mark(Protocol):
    """A place in a stream."""

    def is_reached(self) -> bool:
        """Whether all work before it is done. Raises RuntimeError where that work failed."""

    def wait(self) -> None:
        """Block until it is reached, the interpreter released. Raises as `is_reached`."""


class Stream(Protocol):
    """Work of the device that is done in order; work of two streams may overlap."""

    def current(self) -> AbstractContextManager[None]:
        """What the block launches belongs to this stream. Blocks may nest, with one stream inside another."""

    def mark(self) -> Mark:
        """A mark behind all work so far."""

    def after(self, mark: Mark) -> None:
        """What is launched on this stream from now on waits for a mark of another one. The host does not wait."""

    def upload(self, array: npt.NDArray[Any], into: Tensor) -> None:
        """Copy an array to a contiguous tensor, in the order of this stream; the array may be changed at once."""

    def download(self, tensor: Tensor, into: Tensor) -> None:
        """Copy a contiguous tensor to `host_memory`, in the order of this stream; a later mark tells when."""

    def capture(self, work: Work, *, is_idle: bool) -> Work:
        """Run `work` once, in the order of this stream, and return it as a graph to be replayed on this stream.

        The run sets up what libraries set up at a first call, which a capture would not survive. With `is_idle`
        nobody is served yet: memory that the run leaves unused is given back before the capture, which cannot.

        Graphs of one stream share memory for what lies between their inputs and outputs. That is safe because they
        are replayed one after the other, and none leaves anything there for the next. Raises RuntimeError.
        """


class GpuDevice(Protocol):
    """One GPU, for the one thread that owns it."""

    @property
    def device(self) -> torch.device:
        """As torch names it."""

    @property
    def clicks(self) -> Stream:
        """For work that somebody waits for; its kernels go before those of `pictures`."""

    @property
    def pictures(self) -> Stream:
        """For work that takes longer than a click may wait."""

    @property
    def uploads(self) -> Stream:
        """For pictures on their way to the device while the one before is encoded."""

    def host_memory(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Host memory for `download`. It is used again once the tensor and all views of it are dropped."""

    def settle(self) -> None:
        """Block until the device has done all that it was given, on any stream. Raises RuntimeError if it is
        lost.
        """

    def trim(self) -> None:
        """Give back the memory that torch keeps for later. Waits for the device."""

    def free_bytes(self) -> int:
        """Bytes of the device that nobody holds, trimmed before."""

    def peak_bytes(self, work: Work) -> int:
        """Run `work`, and return how many bytes of the device it held at most, beside what was held before."""


@contextmanager
def finishing(stream: Stream) -> Iterator[None]:
    """The stream's block; where it fails, all that it launched is done before anybody hears of it."""
    with stream.current():
        try:
            yield
        except BaseException:
            with suppress(RuntimeError):
                stream.mark().wait()
            raise
