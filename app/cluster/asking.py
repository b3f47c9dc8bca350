"""Asks a Device, and another one if it cannot answer. Does not know which Device a picture belongs to."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from time import perf_counter
from typing import Any, Protocol, cast

from app.cluster.calls import SEARCH, Answer, Call, FrameStep, Step
from app.cluster.devices import Devices
from app.cluster.errors_as_values import from_plain
from app.cluster.moves import Moves
from app.errors import NotReady, ShuttingDown
from app.middleware.access import request_id, trace_context
from app.scheduling.deadlines import left_s
from app.service.search import Report
from app.telemetry.cluster_metrics import ClusterMetrics
from app.telemetry.stages import StageTimes

log = logging.getLogger(__name__)

ASKED_AT_MOST = 5
"""A call whose Device dies is asked again. Not for ever, because it may be the call that kills them."""
_FIRST_PAUSE_S = 0.05
"""Before the second try; doubled for each further one."""

_DETOURS = 12
"""Other keys that are tried when a Device refuses. With two Devices, each meets the other one half of the time."""
_DETOUR_PAUSE_S = 0.01
_ELSEWHERE = {NotReady.code, ShuttingDown.code}
"""What a Device answers that is lost, hangs or is being stopped. Another one has the picture from the folder."""

_LOST_ON_THE_WAY = (
    "The device that followed this track is gone, with what it remembered. The prompts are kept where the devices "
    "share a folder: propagate again, from the earliest frame with a prompt."
)


class DeviceBug(Exception):
    """A Device failed in a way that it did not foresee. Its log has the traceback, under the same request id."""


class Ask(Protocol):
    """Asks a Device, within the deadline of a request."""

    def __call__(
        self, key: str, method: str, times: StageTimes | None = None, **arguments: Any
    ) -> Awaitable[Any]: ...


class Follow(Protocol):
    """Asks a Device for the frames of a propagation."""

    def __call__(
        self, key: str, method: str, *, is_anew: bool, **arguments: Any
    ) -> AsyncGenerator[FrameStep, None]: ...


class Asking:
    """Turns calls into values and errors."""

    def __init__(self, devices: Devices, figures: ClusterMetrics) -> None:
        self._devices = devices
        self._figures = figures
        self._moves = Moves()

    async def ask(
        self,
        key: str,
        method: str,
        arguments: dict[str, Any],
        ask: Callable[[str, Call], Awaitable[Answer]],
        times: StageTimes,
    ) -> Any:
        """Ask until a Device answers, which then may be another one. Everything that is asked may be repeated.

        `ask` gets the key, or another one if the Device of this key cannot answer.
        """
        tries = _Tries(key, method)
        while True:
            started = perf_counter()
            try:
                found = await ask(tries.key, _call(method, arguments, left_s()))
            except ConnectionError as error:
                pause_s = tries.after(error)
            else:
                if not tries.refuses(found):
                    self._note(key, found)
                    return _opened(found, times, started)
                self._figures.count_call(found.device)
                pause_s = tries.detour()
            self._figures.asked_again.inc()
            await asyncio.sleep(pause_s)

    async def search(self, key: str, arguments: dict[str, Any], times: StageTimes, *, report: Report) -> Any:
        """Ask for everything on a picture. A search that loses its Device begins again."""
        told = -1.0

        async def search(key: str, call: Call) -> Answer:
            nonlocal told
            async with aclosing(self._devices.ask_in_steps(key, call)) as steps:
                async for step in steps:
                    if isinstance(step, Answer):
                        return step
                    # The second time, it stands still until it is where it was.
                    if isinstance(step, Step) and step.progress > told:
                        told = step.progress
                        report(step.progress, step.found)
            raise ConnectionError("The search ended without an answer.")

        return await self.ask(key, SEARCH, arguments, search, times)

    async def follow(
        self, key: str, method: str, arguments: dict[str, Any], *, is_anew: bool
    ) -> AsyncGenerator[FrameStep, None]:
        """Yield the frames of a track, each once. Closing it ends the work.

        A Device that dies before the first frame costs nothing. Later, another one is asked only where it finds the
        same, as it does if all of the track is followed by this call: `is_anew`. What was yielded is left out then.
        """
        tries = _Tries(key, method)
        last: int | None = None
        while True:
            left_out_until = last
            try:
                steps = self._devices.ask_in_steps(tries.key, _call(method, arguments, math.inf))
                async with aclosing(steps):
                    async for step in steps:
                        if isinstance(step, Answer):
                            found = step
                            break
                        frame = cast(FrameStep, step)  # steps of a search come to `search` only
                        if left_out_until is not None:
                            left_out_until = None if frame.frame == left_out_until else left_out_until
                            continue
                        last = frame.frame
                        yield frame
                    else:
                        raise ConnectionError("The frames ended without an answer.")
            except ConnectionError as error:
                pause_s = tries.after(error)
                if last is not None and not is_anew:
                    raise NotReady(_LOST_ON_THE_WAY, retry_after_s=1) from error
            else:
                if not tries.refuses(found) or (last is not None and not is_anew):
                    self._note(key, found)
                    _opened(found, StageTimes(), perf_counter())
                    return
                self._figures.count_call(found.device)
                pause_s = tries.detour()
            self._figures.asked_again.inc()
            await asyncio.sleep(pause_s)

    def _note(self, key: str, found: Answer) -> None:
        self._figures.count_call(found.device)
        if key and self._moves.has_moved(key, found.device):
            self._figures.moved_calls.inc()


class _Tries:
    """The tries of one call: which key the next one has, and whether there is one."""

    def __init__(self, key: str, method: str) -> None:
        self.key = key
        self._own_key, self._method = key, method
        self._losses = self._detours = 0

    def after(self, error: ConnectionError) -> float:
        """Return the seconds to wait before the next try, as a Device was lost. Raises what ends the call."""
        log.info("A device is lost during %s: %s", self._method, error)
        self._losses += 1
        if self._losses == ASKED_AT_MOST:
            what = "The devices that were asked are gone; others are being started. Try again later."
            raise NotReady(what, retry_after_s=5) from error
        pause_s: float = _FIRST_PAUSE_S * 2 ** (self._losses - 1)
        return pause_s

    def refuses(self, found: Answer) -> bool:
        """Whether a Device cannot answer and another one may."""
        is_refused = found.error is not None and found.error[1] in _ELSEWHERE
        return is_refused and self._detours < _DETOURS

    def detour(self) -> float:
        """Choose another key: the Device is alive, so its own would go to it again. Returns the seconds to wait."""
        self._detours += 1
        if self._own_key:
            self.key = f"{self._own_key}/{self._detours}"
        return _DETOUR_PAUSE_S


def _call(method: str, arguments: dict[str, Any], seconds: float) -> Call:
    return Call(method, arguments, seconds, request_id.get(), trace_context.get())


def _opened(found: Answer, times: StageTimes, started: float) -> Any:
    """Return the value of an answer, or raise its error. Adds its stages, and what the way took."""
    now = perf_counter()
    at_device_s = max((before for _, before, _ in found.stages), default=0.0)
    times.add("way", max(0.0, now - started - at_device_s))
    for name, started_s, ended_s in found.stages:
        times.add(name, started_s - ended_s, ended_at=now - ended_s, is_traced=found.is_traced)
    times.batch_size = max(times.batch_size, found.batch_size)
    if found.error is not None:
        raise from_plain(found.error)
    if found.bug:
        raise DeviceBug(found.bug)
    return found.value
