"""Products in bfloat16 of rows in float32, with sums in float32. Does not know what is multiplied.

oneDNN rounds what it multiplies, and nothing else, where the CPU has matrix tiles (AMX); on others nothing is
rounded, and products take as long as in float32. torch has one switch for the process. Only the thread that owns
the device multiplies, so it is on while that thread is in here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch

_SWITCH = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch makes it when it is imported
_ROUNDED = "bf16"


class HalfProducts:
    """A context in which products of float32 are made in bfloat16, if it is enabled."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._before = "none"

    def __enter__(self) -> None:
        if self._enabled:
            self._before, _SWITCH.fp32_precision = _SWITCH.fp32_precision, _ROUNDED

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._enabled:
            _SWITCH.fp32_precision = self._before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Work of others, inside of this context, has the precision that it expects."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()
