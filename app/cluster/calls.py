"""What travels between a Front and a Device, and how a Device answers it.

A call names a method of the Segmentation seam and has its arguments: values, no tensors and no exceptions. Does not
know what carries them.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from app.cluster.errors_as_values import PlainError, from_plain, to_plain
from app.cluster.parts import InParts, Parts
from app.errors import ServiceError
from app.middleware.access import request_id
from app.scheduling.deadlines import within
from app.service.segmentation import Segmentation
from app.service.track_values import FrameAnswer, ObjectAnswer
from app.telemetry.stages import Stage, StageTimes

log = logging.getLogger(__name__)

_TIMED = frozenset(
    {"embed", "recall", "decode", "segment", "export", "tracks.prompt", "videos.add", "videos.frame"}
)
"""Methods with an argument `times`."""
_OF_TRACKS = {"add", "describe", "newest", "delete", "remove_object", "clear_prompts"}
_OF_VIDEOS = {"describe", "newest", "delete", "frame_id"}
ASKED = (
    _TIMED
    | {"describe", "describe_all", "delete"}
    | {f"tracks.{name}" for name in _OF_TRACKS}
    | {f"videos.{name}" for name in _OF_VIDEOS}
)
"""Methods that a call may name. Each may be repeated; what would count twice then has a mark."""
PART = "part"
SEARCH = "everything"
FOLLOWING = frozenset({"tracks.propagate", "tracks.propagate_once"})
"""Methods that are answered in steps."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a Front to a Device."""

    method: str
    arguments: dict[str, Any]
    left_s: float
    """Seconds until the Front gives up. Clocks of two machines differ, so it is no point in time. Infinite where
    each step has a deadline of its own."""
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
    parts: Parts = field(default_factory=Parts)


@dataclass(frozen=True, slots=True)
class Step:
    """How far a search is."""

    progress: float
    found: int


@dataclass(frozen=True, slots=True)
class FrameStep:
    """All objects on a frame of a track, or the error of this frame."""

    frame: int
    objects: list[ObjectAnswer]
    error: PlainError | None = None

    @classmethod
    def of(cls, reply: FrameAnswer) -> "FrameStep":
        """Convert what a service says."""
        return cls(reply.frame, reply.objects, to_plain(reply.error) if reply.error is not None else None)

    def opened(self) -> FrameAnswer:
        """Convert it back."""
        return FrameAnswer(
            self.frame, self.objects, from_plain(self.error) if self.error is not None else None
        )


async def answer(device: Answering, call: Call) -> Answer:
    """Let the service of a Device do what a call says."""
    if call.method == PART:
        return Answer(device.parts.take(**call.arguments), device=device.name)
    if call.method not in ASKED:
        raise ValueError(f"a Front does not ask for {call.method!r}")  # a bug, or nothing of ours
    times = StageTimes()
    timed = {"times": times} if call.method in _TIMED else {}
    method, arguments = attrgetter(call.method)(device.service), dict(call.arguments)
    for name, value in arguments.items():
        if isinstance(value, InParts):
            arguments[name] = device.parts.whole(value)
            if arguments[name] is None:
                return Answer(device=device.name)  # the Front sends it again
    return await _answered(device, call, lambda: method(**arguments, **timed), times)


async def answer_in_steps(device: Answering, call: Call) -> AsyncGenerator[Step | FrameStep | Answer, None]:
    """Let the service do what takes many steps. Yield them, and the answer last."""
    if call.method != SEARCH and call.method not in FOLLOWING:
        raise ValueError(f"a Front does not ask for {call.method!r} in steps")
    async with aclosing((_search if call.method == SEARCH else _follow)(device, call)) as steps:
        async for step in steps:
            yield step


async def _follow(device: Answering, call: Call) -> AsyncGenerator[FrameStep | Answer, None]:
    """Follow the objects of a track. A frame is begun when the one before has been taken."""
    started, outcome = perf_counter(), _Outcome()
    frames = attrgetter(call.method)(device.service)(**call.arguments)
    try:
        async with aclosing(frames):
            while (outcome := await _tried(call, lambda: anext(frames, None))).value is not None:
                yield FrameStep.of(outcome.value)
    finally:  # also where the client has gone
        reply = _answer_of(device, call, outcome, StageTimes(), started=started)
    yield reply


async def _search(device: Answering, call: Call) -> AsyncGenerator[Step | Answer, None]:
    """Search for everything. Yield the newest step whenever there is one."""
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


class _Outcome(NamedTuple):
    """What has become of a piece of work: see Answer."""

    value: Any = None
    error: PlainError | None = None
    bug: str = ""


async def _answered(
    device: Answering, call: Call, story: Callable[[], Awaitable[Any]], times: StageTimes
) -> Answer:
    started = perf_counter()
    return _answer_of(device, call, await _tried(call, story), times, started=started)


async def _tried(call: Call, story: Callable[[], Awaitable[Any]]) -> _Outcome:
    token = request_id.set(call.request_id)
    try:
        async with within(call.left_s):
            return _Outcome(await story())
    except ServiceError as failure:
        return _Outcome(error=to_plain(failure))
    except (
        Exception
    ) as failure:  # a bug: logged here with its traceback, and told to the Front, which counts it
        log.exception("Internal error")
        return _Outcome(bug=f"{type(failure).__name__}: {failure}")
    finally:
        request_id.reset(token)


def _answer_of(
    device: Answering, call: Call, outcome: _Outcome, times: StageTimes, *, started: float
) -> Answer:
    now = perf_counter()
    stages = tuple((stage.name, now - stage.started_at, now - stage.ended_at) for stage in times.stages)
    is_traced = device.traces is not None and bool(call.trace)
    if device.traces is not None and call.trace:
        device.traces.end_call(
            call.trace,
            f"Device {call.method}",
            times.stages,
            started_at=started,
            attributes={"sam2.request_id": call.request_id, "sam2.device": device.name},
            batch_size=times.batch_size,
        )
    return Answer(*outcome, stages, times.batch_size, device.name, is_traced=is_traced)
