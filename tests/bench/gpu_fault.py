"""The server, with a GPU that is lost under its second picture: python -m tests.bench.gpu_fault

On a CPU an error of the same class is raised in its place. Does not know how the server takes it.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from app.__main__ import main
from model.runner import Sam2Runner


def break_second_encode() -> None:
    """Have the second and every later Sam2Runner.encode after warm-up find a broken context."""
    encode: Callable[..., Any] = Sam2Runner.encode
    calls = 0

    def faulty(self: Sam2Runner, images: Sequence[Any], *, between: Callable[[], None] = lambda: None) -> Any:
        nonlocal calls
        is_upload = images[0].shape[:2] == (1, 1)  # pictures of the warm-up are larger
        calls += is_upload
        if is_upload and calls > 1:
            if self.device.type != "cuda":
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            far = torch.tensor([10**8], device=self.device)
            torch.zeros(1, device=self.device)[far]  # an assertion on the device, which the encode then meets
        return encode(self, images, between=between)

    Sam2Runner.encode = faulty  # type: ignore[method-assign]


if __name__ == "__main__":
    break_second_encode()
    sys.exit(main())
