"""What travels between a Front and a Device, and how a Device answers it.

A call names a method of the Segmentation seam and has its arguments: values, no tensors and no exceptions. Does not
know what carries them.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from app.cluster.errors_as_values import PlainError, to_plain
from app.errors import ServiceError
from app.middleware.access import request_id
from app.scheduling.deadlines import within
from app.service.segmentation import Segmentation
from app.telemetry.stages import Stage, StageTimes

log = logging.getLogger(__name__)

ASKED = frozenset({"embed", "recall", "decode", "segment", "export", "describe", "describe_all", "delete"})
"""Methods that a call may name. Each may be repeated."""
_TIMED = ASKED - {"describe", "describe_all", "delete"}
"""Those with an argument `times`."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a Front to a Device."""

    method: str
    arguments: dict[str, Any]
    left_s: float
    """Seconds until the Front gives up. Clocks of two machines differ, so it is no point in time."""
    request_id: str
    trace: dict[str, str] | None = None
    """The headers by which the trace goes on, if the request is traced."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a Device: a value, an error of the request, or what the Device's log calls a bug."""

    value: Any = None
    error: PlainError | None = None
    bug: str = ""
    stages: tuple[tuple[str, float, float], ...] = ()
    """Name, start and end of each stage, in seconds before the answer."""
    batch_size: int = 0
    device: str = ""
    """Who has answered."""
    is_traced: bool = False
    """Whether the Device sends spans of its stages."""


class Traces(Protocol):
    """The part of Tracing (app/telemetry/tracing.py) that answering uses."""

    def end_call(
        self,
        context: Mapping[str, str],
        name: str,
        stages: Sequence[Stage],
        *,
        started_at: float,
        attributes: Mapping[str, str],
        batch_size: int,
    ) -> None:
        """Add a call to the trace of its request, with its stages."""


@dataclass(frozen=True, slots=True)
class Answering:
    """A Device as it answers calls."""

    service: Segmentation
    name: str
    traces: Traces | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """How far a search is."""

    progress: float
    found: int


async def answer(device: Answering, call: Call) -> Answer:
    """Let the service of a Device do what a call says."""
    if call.method not in ASKED:
        raise ValueError(f"a Front does not ask for {call.method!r}")  # a bug, or nothing of ours
    times = StageTimes()
    timed = {"times": times} if call.method in _TIMED else {}
    method = getattr(device.service, call.method)
    return await _answered(device, call, lambda: method(**call.arguments, **timed), times)


async def answer_in_steps(device: Answering, call: Call) -> AsyncGenerator[Step | Answer, None]:
    """Let the service search for everything. Yield the newest step whenever there is one, and the answer last."""
    times, changed = StageTimes(), asyncio.Event()
    newest: list[Step] = []

    def report(progress: float, found: int) -> None:
        newest[:] = [Step(progress, found)]
        changed.set()

    search = partial(device.service.everything, **call.arguments, times=times, report=report)
    work = asyncio.create_task(_answered(device, call, search, times))
    work.add_done_callback(lambda _: changed.set())
    try:
        while not work.done():
            await changed.wait()
            changed.clear()
            if newest:
                yield newest.pop()
        yield work.result()
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


async def _answered(
    device: Answering, call: Call, story: Callable[[], Awaitable[Any]], times: StageTimes
) -> Answer:
    token = request_id.set(call.request_id)
    started = perf_counter()
    value, error, bug = None, None, ""
    try:
        async with within(call.left_s):
            value = await story()
    except ServiceError as failure:
        error = to_plain(failure)
    except (
        Exception
    ) as failure:  # a bug: logged here with its traceback, and told to the Front, which counts it
        log.exception("Internal error")
        bug = f"{type(failure).__name__}: {failure}"
    finally:
        request_id.reset(token)
    now = perf_counter()
    stages = tuple((stage.name, now - stage.started_at, now - stage.ended_at) for stage in times.stages)
    if device.traces is None or not call.trace:
        return Answer(value, error, bug, stages, times.batch_size, device.name)
    device.traces.end_call(
        call.trace,
        f"Device {call.method}",
        times.stages,
        started_at=started,
        attributes={"sam2.request_id": call.request_id, "sam2.device": device.name},
        batch_size=times.batch_size,
    )
    return Answer(value, error, bug, stages, times.batch_size, device.name, is_traced=True)
