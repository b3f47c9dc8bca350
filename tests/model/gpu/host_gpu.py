"""A GPU made of the CPU: streams that run at once, marks that take a while, graphs that call what they captured.

What a CPU can prove of model/gpu, it proves with this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from model.gpu.device import Mark, Work

LOOKS = 3
"""How often a mark says no before it is reached."""


class Capture(Protocol):
    """Stream.capture."""

    def __call__(self, work: Work, *, is_idle: bool) -> Work:
        """See Stream."""


class HostMark:
    """Implements Mark."""

    def __init__(self) -> None:
        self.looks = 0

    def is_reached(self) -> bool:
        """Only at the LOOKS-th look, as if the work before took a while."""
        self.looks += 1
        return self.looks > LOOKS

    def wait(self) -> None:
        """At once: the work was done when it was launched."""


class HostStream:
    """Implements Stream. Notes when its work is launched while another stream is current."""

    def __init__(self, gpu: "HostGpu", name: str) -> None:
        self._gpu, self._name = gpu, name
        self.capture: Capture = self._capture
        """May be replaced by one that fails, or whose graphs do."""
        self.captures = 0
        self.replays = 0

    @contextmanager
    def current(self) -> Iterator[None]:
        """See Stream."""
        self._gpu.current.append(self._name)
        try:
            yield
        finally:
            self._gpu.current.pop()

    def mark(self) -> HostMark:
        """See Stream."""
        return HostMark()

    def after(self, mark: Mark) -> None:
        """See Stream. What was launched before is done."""
        self._check()

    def upload(self, array: npt.NDArray[Any], into: Tensor) -> None:
        """See Stream."""
        self._check()
        assert into.dtype == torch.from_numpy(array).dtype
        assert into.is_contiguous()
        into.copy_(torch.from_numpy(array))

    def download(self, tensor: Tensor, into: Tensor) -> None:
        """See Stream."""
        self._check()
        assert tensor.is_contiguous()
        assert into.is_contiguous()
        assert tensor.shape == into.shape
        into.copy_(tensor)

    def _capture(self, work: Work, *, is_idle: bool) -> Work:
        self._check()
        self.captures += 1
        work()

        def replay() -> None:
            self.replays += 1
            work()

        return replay

    def _check(self) -> None:
        assert self._gpu.current[-1:] == [self._name]


class HostGpu:
    """Implements GpuDevice."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.current: list[str] = []
        """The streams whose blocks are entered, the innermost last."""
        self.clicks = HostStream(self, "clicks")
        self.pictures = HostStream(self, "pictures")
        self.uploads = HostStream(self, "uploads")
        self.is_lost = False
        self.trims = 0
        self.free = 2**40
        """Bytes that nobody holds."""
        self.peaks: list[int] = []
        """Bytes that pieces of work take, the next one first; 0 where none are left."""

    def host_memory(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """See GpuDevice. Poisoned: what is not copied to shows."""
        return torch.full(shape, torch.nan, dtype=dtype)

    def settle(self) -> None:
        """See GpuDevice."""
        if self.is_lost:
            raise RuntimeError(
                "CUDA error: an illegal memory access was encountered\nfor debugging consider ..."
            )

    def trim(self) -> None:
        """See GpuDevice."""
        self.settle()
        self.trims += 1

    def free_bytes(self) -> int:
        """See GpuDevice."""
        return self.free

    def peak_bytes(self, work: Work) -> int:
        """See GpuDevice. Runs the work, and makes the number up."""
        work()
        return self.peaks.pop(0) if self.peaks else 0
