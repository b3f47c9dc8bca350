"""A GPU without values: how much memory work would hold at once, and how many embeddings would fit."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.gpu.device import Work
from tests.model.gpu.host_gpu import HostGpu

META = torch.device("meta")


class Held(TorchDispatchMode):
    """Adds up the bytes of all storages on META that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in torch.utils._pytree.tree_leaves(result):
            if isinstance(each, Tensor) and each.device == META:
                self._add(each)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        nbytes = storage.nbytes()
        self._known[key] = weakref.finalize(storage, self._drop, key, nbytes)
        self.now += nbytes
        self.peak = max(self.peak, self.now)

    def _drop(self, key: int, nbytes: int) -> None:
        del self._known[key]
        self.now -= nbytes


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes that work holds at once, beside what was there before."""
    with Held() as held:
        work()
    return held.peak


class MetaGpu(HostGpu):
    """A HostGpu of a number of bytes whose tensors have no values. What work takes is measured."""

    device = META

    def __init__(self, free: int) -> None:
        super().__init__()
        self.free = free

    def peak_bytes(self, work: Work) -> int:
        """See GpuDevice."""
        peak = peak_bytes(work)
        self.peaks.append(peak)
        return peak
