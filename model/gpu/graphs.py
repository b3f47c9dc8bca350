"""Work of fixed shapes, replayed as a captured graph where that is possible and gives the right numbers.

A graph that cannot be captured, and one that answers otherwise than the work it was made of, is given up with an
error in the log, and the work is launched piece by piece as before: slower, but right. Lack of memory and a lost
device are no reasons to give up a graph: they are raised. Does not know about models.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from model.gpu.device import GpuDevice, Stream, Work
from model.gpu.faults import is_lost, is_of_the_driver, is_out_of_memory

log = logging.getLogger(__name__)

REPLAY_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""By the model's precision. The same kernels in the same order: nothing is expected but equal bits."""


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
    dtype: torch.dtype
    """What it computes in."""


def captured(work: FixedWork, gpu: GpuDevice, stream: Stream, *, tolerance: float, is_idle: bool) -> Work:
    """The work as a graph that gives the same outputs on random input, or else the work itself.

    `tolerance` bounds the relative error of every output: the norm of the difference over the norm. `is_idle` is
    for the warm-up: see Stream.capture. Raises RuntimeError where the device lacks memory, or is lost, and while
    serving what the driver refuses.
    """
    started = perf_counter()
    try:
        with stream.current():
            work.fill()
            replay = stream.capture(work.run, is_idle=is_idle)
            expected = [output.clone() for output in work.outputs]
            if not _are_finite(expected):
                _report_overflow(work)
                return work.run
            for output in work.outputs:
                output.fill_(torch.nan)  # what the graph does not write is not right by chance
            replay()
            error = relative_error(work.outputs, expected)
    except Exception as failure:
        if is_out_of_memory(failure) or is_lost(gpu) or (is_of_the_driver(failure) and not is_idle):
            raise
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


def _are_finite(outputs: Sequence[Tensor]) -> bool:
    return bool(torch.stack([output.isfinite().all() for output in outputs]).all())


def _report_overflow(work: FixedWork) -> None:
    """A graph cannot be compared with what is not a number. Clicks on real pictures may still be right."""
    log.error(
        "The %s overflows in %s on random input, so its graph cannot be checked: it runs without, and slower. Its "
        "answers may be wrong as well; SAM2_DTYPE=float32 has the range.",
        work.name, str(work.dtype).removeprefix("torch."),
    )  # fmt: skip


def relative_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The worst of all tensors: the norm of the difference over the norm. NaN where anything is NaN.

    What is small throughout, such as a lone score that happens to be near zero, is measured as if it were 0.1.
    """
    errors = [
        (a.float() - e.float()).norm() / e.float().norm().clamp(min=0.1 * math.sqrt(e.numel()))
        for a, e in zip(actual, expected, strict=True)
    ]
    return float(torch.stack(errors).max())
