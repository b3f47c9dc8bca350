"""Networks compiled by torch, where that is possible and gives the right numbers.

What cannot be compiled, or answers otherwise than the network it was made of, is given up with an error in the log,
and the network runs as it is. Does not know about models.
"""

import functools
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor

from model.gpu.graphs import relative_error

T = TypeVar("T")
Network = TypeVar("Network", bound=Callable[..., Sequence[Tensor]])

log = logging.getLogger(__name__)

COMPILED_TOLERANCE = {torch.float32: 5e-2, torch.bfloat16: 0.2, torch.float16: 0.2}
"""Compiled kernels round otherwise, and with random weights attention enlarges that ten thousandfold; what is wrong
is wrong by about 1."""

MOST_COMPILED_SHAPES = 256
"""More than there are batch sizes times token counts, with masks and without."""

_COMPILERS = ("cc", "gcc", "clang")


@functools.cache
def obstacle() -> str | None:
    """What keeps torch from compiling on this machine, looked for once and logged; None if nothing is found.

    Triton compiles a small library in C and maps it. Without a compiler, or from a folder without `exec` (a tmpfs
    of Docker's, say), each of some thirty shapes would fail after minutes of tracing.
    """
    found = _find_obstacle()
    if found is not None:
        log.error("SAM2_COMPILE=on: nothing is compiled, because %s. The server runs as with auto.", found)
    return found


def _find_obstacle() -> str | None:
    if not any(shutil.which(name) for name in _COMPILERS):
        return f"there is no C compiler ({', '.join(_COMPILERS)}) on the PATH"
    for folder in _cache_folders():
        parent = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(parent, os.W_OK):
            return f"{folder} cannot be written"
        if os.statvfs(parent).f_flag & os.ST_NOEXEC:
            return f"{folder} is on a file system that is mounted with noexec"
    return None


def _cache_folders() -> list[Path]:
    """Where torch and Triton keep what they compile (TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR)."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir, triton_cache_dir  # slow to import

    return [Path(cache_dir()), Path(triton_cache_dir(0))]


def compiled(function: Callable[..., T]) -> Callable[..., T]:
    """The function, to be compiled by torch for each shape that it is called with; see `agreeing`."""
    import torch._dynamo  # a second of every start, and few ask for it

    # By default torch gives up at the ninth shape, and from then on runs the function as it is.
    torch._dynamo.config.cache_size_limit = MOST_COMPILED_SHAPES
    return torch.compile(function, fullgraph=True, dynamic=False, mode="max-autotune-no-cudagraphs")


def agreeing(
    compiled: Network,
    eager: Network,
    arguments: Sequence[Tensor | None],
    *,
    name: str,
    tolerance: float,
) -> Network:
    """The compiled network, where it can be compiled for these arguments and agrees with the eager one.

    Else the eager one, and an error in the log.
    """
    started = perf_counter()
    try:
        error = relative_error(compiled(*arguments), eager(*arguments))
    except Exception:
        log.error("The %s cannot be compiled: it runs as it is, and slower.", name, exc_info=True)
        return eager
    if not error <= tolerance:
        log.error(
            "The compiled %s is wrong by %.2g, allowed is %.2g: it runs as it is, and slower.",
            name, error, tolerance,
        )  # fmt: skip
        return eager
    log.info("Compiled the %s in %.1f s", name, perf_counter() - started)
    return compiled
