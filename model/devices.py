"""Which device and which precision a name stands for on this machine.

Knows nothing of models.
"""

import torch


def resolve_device(name: str) -> torch.device:
    """The device that "auto" or a name stands for."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {error}") from error
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision that "auto" or a name stands for on this device."""
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        # Without these instructions bfloat16 is emulated, and slower than float32.
        is_fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if is_fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
