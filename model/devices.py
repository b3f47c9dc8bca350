"""Which device and which precision a name stands for on this machine.

Does not know about models.
"""

import logging
from pathlib import Path

import torch

from model.device_names import check_device

log = logging.getLogger(__name__)

NVIDIA_FILES = (Path("/dev/nvidiactl"), Path("/usr/lib/wsl/lib/nvidia-smi"))
"""What NVIDIA's driver creates: on Linux, and in the Linux subsystem of Windows."""

_HALF_SINCE = (8, 0)
"""Compute capability of the first cards that compute in bfloat16 (Ampere). Older ones emulate it: ten times
slower."""


def resolve_device(name: str) -> torch.device:
    """The device that "auto", "cpu", "cuda" or "cuda:N" stands for.

    Raises ValueError for any other name, and for a device that is not there or computes nothing. Where "auto" is a
    CPU although the machine has a GPU, the log says why.
    """
    if check_device(name) == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu":
            _warn_of_unused_gpu()
    try:
        device = torch.device(name)
        # A card for which torch has no kernels gives memory all the same, and nothing is asked of it for none.
        torch.ones(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        reason, _, _ = str(error).partition("\n")  # without torch's advice on debugging
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def count_gpus() -> int:
    """How many GPUs torch may use. Touches none of them."""
    return torch.cuda.device_count()


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision that "auto" or a name stands for on this device."""
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if _computes_bfloat16(device) else torch.float16
        # Without these instructions bfloat16 is emulated, and slower than float32.
        is_fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if is_fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether this very card does. torch.cuda.is_bf16_supported counts emulation, and asks the first card."""
    if torch.version.hip is not None:  # AMD's cards are numbered otherwise, and all that torch runs on do
        return True
    return torch.cuda.get_device_capability(device) >= _HALF_SINCE


def _warn_of_unused_gpu() -> None:
    found = next((path for path in NVIDIA_FILES if path.exists()), None)
    if found is None:
        return
    if torch.version.cuda is None:
        reason = f"torch {torch.__version__} is a build without CUDA; install one with it"
    else:
        reason = (
            f"torch {torch.__version__} finds no usable one. It is built for CUDA {torch.version.cuda} and needs a "
            "driver for that version or later (nvidia-smi shows it), and CUDA_VISIBLE_DEVICES must not hide the GPU"
        )
    log.warning(
        "This machine has an NVIDIA driver (%s), but the model runs on the CPU: %s. With SAM2_DEVICE=cuda the "
        "server ends instead, with torch's reason; SAM2_DEVICE=cpu chooses the CPU without this warning.",
        found,
        reason,
    )
