"""Tells what an error of torch means for the device. Does not know what was running.

Torch has a type for one of many ways to run out of memory; the other ways are known by their words.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model.errors import DeviceLost, DeviceOutOfMemory
from model.gpu.device import GpuDevice

_OUT_OF_MEMORY = (
    "out of memory",
    "STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "can't allocate memory",
    "NVML_SUCCESS ==",
)
"""Torch's allocator, and the driver (for graphs and pinned memory); cuBLAS; cuDNN; torch's allocator on a CPU; and
torch's allocator on a part of a GPU (MIG), where NVML does not say who has the memory (pytorch/pytorch#112377)."""

# Before torch 2.8 errors of the driver have no type of their own.
_OF_THE_DRIVER: type[RuntimeError] = getattr(torch, "AcceleratorError", RuntimeError)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the host, lacked memory. The device works on."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    )


def is_of_the_driver(error: BaseException) -> bool:
    """Whether the driver refused a call for another reason; unless the device is lost, it may grant it later."""
    return isinstance(error, _OF_THE_DRIVER) and not is_out_of_memory(error)


def is_lost(gpu: GpuDevice) -> bool:
    """Whether the device fails whatever it is asked. Waits for its work.

    All errors of a GPU but a few, such as lack of memory, stay: each later call fails as well.
    """
    try:
        gpu.settle()
    except RuntimeError:
        return True
    return False


class Faults:
    """Raises our own errors instead of torch's, of which the service knows nothing."""

    def __init__(self, gpu: GpuDevice | None, *, device_name: str) -> None:
        """`gpu` is None on a CPU, which is never lost."""
        self._gpu, self._device_name = gpu, device_name
        self._was_full = False

    @contextmanager
    def named(self) -> Iterator[None]:
        """The block may raise DeviceOutOfMemory and DeviceLost. After the former, the next block starts trimmed."""
        was_full, self._was_full = self._was_full, False
        try:
            if was_full and self._gpu is not None:
                self._gpu.trim()  # only now: the frames of the error still held what did not fit
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                self._was_full = True
                raise DeviceOutOfMemory(str(error)) from error
            if self._gpu is not None and is_lost(self._gpu):
                reason, _, _ = str(error).partition("\n")  # without torch's advice on debugging
                raise DeviceLost(f"{self._device_name} has failed: {reason}") from error
            raise
