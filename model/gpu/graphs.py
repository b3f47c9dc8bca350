"""Work of fixed shapes, replayed as a captured graph where that is possible and gives the right numbers.

A graph that cannot be captured, and one that answers otherwise than the work it was made of, is given up with an
error in the log, and the work is launched piece by piece as before: slower, but right. Knows nothing of models.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor

from model.gpu.device import Stream, Work

T = TypeVar("T")
Network = TypeVar("Network", bound=Callable[..., Sequence[Tensor]])

log = logging.getLogger(__name__)

REPLAY_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""By the model's precision. The same kernels in the same order: nothing is expected but equal bits."""

COMPILED_TOLERANCE = {torch.float32: 5e-2, torch.bfloat16: 0.2, torch.float16: 0.2}
"""Compiled kernels round otherwise, and with random weights attention enlarges that ten thousandfold; what is wrong
is wrong by about 1."""

MOST_COMPILED_SHAPES = 256
"""More than there are batch sizes times token counts, with masks and without."""


@dataclass(frozen=True, slots=True)
class FixedWork:
    """Work between tensors that stay where they are, and what it takes to check it."""

    name: str
    """For the log, such as "encoder for 4 pictures"."""
    run: Work
    fill: Callable[[], None]
    """Writes random but sensible inputs."""
    outputs: Sequence[Tensor]
    """Where `run` writes, all of it and nothing beside."""


def captured(work: FixedWork, stream: Stream, *, tolerance: float) -> Work:
    """The work as a graph that gives the same outputs on random input, or else the work itself.

    `tolerance` bounds the relative error of every output: the norm of the difference over the norm.
    """
    started = perf_counter()
    try:
        with stream.current():
            work.fill()
            work.run()  # also sets up what libraries set up at the first call, which a capture would not survive
            expected = [output.clone() for output in work.outputs]
            replay = stream.capture(work.run)
            for output in work.outputs:
                output.fill_(torch.nan)  # what the graph does not write is not right by chance
            replay()
            error = relative_error(work.outputs, expected)
    except Exception:
        log.error("No graph of the %s: it runs without, and slower.", work.name, exc_info=True)
        return work.run
    if not error <= tolerance:
        log.error(
            "The graph of the %s is wrong by %.2g, allowed is %.2g: it runs without, and slower.",
            work.name, error, tolerance,
        )  # fmt: skip
        return work.run
    log.debug("Captured the %s in %.0f ms, error %.1g", work.name, 1000 * (perf_counter() - started), error)
    return replay


def relative_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The worst of all tensors: the norm of the difference over the norm. NaN where anything is NaN.

    What is small throughout, such as a lone score that happens to be near zero, is measured as if it were 0.1.
    """
    errors = [
        (a.float() - e.float()).norm() / e.float().norm().clamp(min=0.1 * math.sqrt(e.numel()))
        for a, e in zip(actual, expected, strict=True)
    ]
    return float(torch.stack(errors).max())


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
