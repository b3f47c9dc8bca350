"""Asks a Device, and another one if it cannot answer. Does not know which Device a picture belongs to."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from app.cluster.calls import Answer, Call
from app.cluster.devices import Devices
from app.cluster.errors_as_values import from_plain
from app.cluster.moves import Moves
from app.errors import NotReady, Overloaded, ShuttingDown
from app.middleware.access import request_id, trace_context
from app.scheduling.deadlines import left_s
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


class DeviceBug(Exception):
    """A Device failed in a way that it did not foresee. Its log has the traceback, under the same request id."""


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
        own_key, losses, detours = key, 0, 0
        while True:
            started = perf_counter()
            try:
                found = await ask(
                    key, Call(method, arguments, left_s(), request_id.get(), trace_context.get())
                )
            except (
                Exception
            ) as error:  # engines have errors of their own; what is neither lost nor full goes on
                if self._devices.is_full(error):
                    what = "Too many requests wait for the device that has this picture. Try again later."
                    raise Overloaded(what, retry_after_s=2) from error
                if not self._devices.is_lost(error):
                    raise
                log.info("A device is lost during %s: %s", method, error)
                losses += 1
                if losses == ASKED_AT_MOST:
                    what = "The devices that were asked are gone; others are being started. Try again later."
                    raise NotReady(what, retry_after_s=5) from error
                pause_s = _FIRST_PAUSE_S * 2 ** (losses - 1)
            else:
                self._figures.count_call(found.device)
                is_refused = found.error is not None and found.error[1] in _ELSEWHERE
                if not is_refused or detours == _DETOURS:
                    if own_key and self._moves.has_moved(own_key, found.device):
                        self._figures.moved_calls.inc()
                    return _opened(found, times, started)
                detours += 1
                if own_key:  # the Device is alive, so its pictures would go to it again
                    key = f"{own_key}/{detours}"
                pause_s = _DETOUR_PAUSE_S
            self._figures.asked_again.inc()
            await asyncio.sleep(pause_s)


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
