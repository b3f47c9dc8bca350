"""Sees a device thread that has died or hangs, and ends the process where it does not come back.

A thread of its own, for the event loop may be busy and the device holds its thread. Knows nothing of what runs on
the device.
"""

import logging
import os
import sys
import threading
import traceback

from app.errors import NotReady
from app.scheduling.device import DeviceThread

log = logging.getLogger(__name__)

PATIENCE = 2
"""Limits that go by between the first alarm and the end of the process."""

EXIT_CODE = 3
"""Of a process that was ended because its device did not come back."""

_LAST_WORDS_S = 5.0
"""Where standard error is a full pipe the log would hang too; a supervisor can do without it."""


class Watchdog:
    """`limit_s` without a sign of life, and `stuck` is true; PATIENCE times as long again, and the process ends.

    Time is counted in checks, not read from a clock: a process that was stopped or a machine that slept is not
    stuck. A `limit_s` of 0 watches nothing. Start it once the model is warm, for loading may take long.
    """

    def __init__(self, device: DeviceThread, *, limit_s: float) -> None:
        self.limit_s = limit_s
        self._device = device
        self._period_s = min(1.0, limit_s / 10)
        self._sign: float | None = None  # of life, at the last check
        self._silent_s = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def stuck(self) -> bool:
        """Whether what the device runs now has shown no sign of life for `limit_s`; false as soon as it has."""
        return 0 < self.limit_s <= self._silent_s and self._sign == self._device.busy_since

    def check(self) -> None:
        """Raise NotReady where the device thread is dead or stuck."""
        if not self._device.alive:
            raise NotReady("The device thread broke; the server must be restarted.", retry_after_s=60)
        if self.stuck:
            raise NotReady(
                f"The device has shown no sign of life for {self.limit_s:g} s (SAM2_WATCHDOG_S); the server "
                "restarts unless one comes.",
                retry_after_s=30,
            )

    def start(self) -> None:
        """Watch from now on, until `stop`."""
        if self.limit_s > 0:
            self._thread.start()

    def stop(self) -> None:
        """Watch no longer. May be called again, and before `start`."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(_LAST_WORDS_S)

    def _watch(self) -> None:
        while not self._stopped.wait(self._period_s):
            self._look()

    def _look(self) -> None:
        before, self._sign = self._sign, self._device.busy_since
        was_stuck = self._silent_s >= self.limit_s
        if self._device.alive and (self._sign is None or self._sign != before):
            self._silent_s = 0.0
            if was_stuck:
                log.warning("The device answers again.")
            return
        self._silent_s += self._period_s
        what = "shown no sign of life" if self._device.alive else "been dead"
        if self._silent_s >= (1 + PATIENCE) * self.limit_s:
            self._end(f"The device thread has {what} for {self._silent_s:g} s; the process ends now.")
        elif self._silent_s >= self.limit_s and not was_stuck:
            log.error(
                "The device thread has %s for %g s (SAM2_WATCHDOG_S); nothing is answered now, and the process "
                "ends in %g s unless it comes back.",
                what,
                self._silent_s,
                PATIENCE * self.limit_s,
            )

    def _end(self, message: str) -> None:
        speaker = threading.Thread(target=self._say, args=(message,), daemon=True)
        speaker.start()
        speaker.join(_LAST_WORDS_S)
        end_process(EXIT_CODE)

    def _say(self, message: str) -> None:
        frame = sys._current_frames().get(self._device.ident or 0)
        where = "".join(traceback.format_stack(frame)) if frame is not None else "The thread has ended."
        # As exceptions are: the stack is a field of its own, and no part of the message.
        record = log.makeRecord(
            log.name, logging.CRITICAL, __file__, 0, message, (), None, sinfo=f"Device thread:\n{where}"
        )
        log.handle(record)
        for handler in logging.getLogger().handlers:
            handler.flush()


def end_process(code: int) -> None:
    """End at once, without waiting for any thread: the one that hangs would never be done."""
    os._exit(code)
