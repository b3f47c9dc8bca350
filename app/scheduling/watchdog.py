"""Detects a device that is lost, and a device thread that has died or hangs, and ends the process.

Runs in its own thread, because the event loop may be busy and the device thread may hang. Does not know what runs
on the device.
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
"""Time between the first alarm and the end of the process, in multiples of the limit."""

EXIT_CODE = 3
"""Exit code of a process that was ended because its device did not recover."""

LAST_REPLIES_S = 1.0
"""Time between the loss of the device and the end of the process, for replies to reach their clients."""

_LAST_WORDS_S = 5.0
"""Longest wait for the last log message. If standard error is a full pipe, logging hangs too; the process must end
without it."""


class Watchdog:
    """Sets `stuck` after `limit_s` without a sign of life, and ends the process after PATIENCE times as long again.

    Time is counted in checks, not read from a clock, so that a stopped process or a sleeping machine does not count
    as stuck. A `limit_s` of 0 disables this. Start it once the model is warm: loading may take long.

    A lost device ends the process within LAST_REPLIES_S in any case, before `start` too.
    """

    def __init__(self, device: DeviceThread, *, limit_s: float) -> None:
        self.limit_s = limit_s
        self._device = device
        self._period_s = min(1.0, limit_s / 10)
        self._sign: float | None = None  # `busy_since` at the last check
        self._silent_s = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        device.on_lost = self._end_soon

    @property
    def stuck(self) -> bool:
        """Whether the running work has shown no sign of life for `limit_s`; false as soon as it shows one."""
        return 0 < self.limit_s <= self._silent_s and self._sign == self._device.busy_since

    def check(self) -> None:
        """Raise NotReady if the device is lost, or its thread dead or stuck."""
        if self._device.lost:
            raise NotReady(
                "The device has failed, and the server restarts. Try again later.", retry_after_s=30
            )
        if not self._device.alive:
            raise NotReady("The device thread crashed. The server must be restarted.", retry_after_s=60)
        if self.stuck:
            raise NotReady(
                f"The device has shown no sign of life for {self.limit_s:g} s (SAM2_WATCHDOG_S). The server "
                "restarts if it does not recover. Try again later.",
                retry_after_s=30,
            )

    def start(self) -> None:
        """Start watching, until `stop`."""
        if self.limit_s > 0:
            self._thread.start()

    def stop(self) -> None:
        """Stop watching. May be called again, and before `start`."""
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
                "The device thread has %s for %g s (SAM2_WATCHDOG_S). No request gets an answer now, and the "
                "process ends in %g s unless the thread recovers.",
                what,
                self._silent_s,
                PATIENCE * self.limit_s,
            )

    def _end_soon(self) -> None:
        ending = threading.Timer(LAST_REPLIES_S, end_process, (EXIT_CODE,))
        ending.daemon = True
        ending.start()

    def _end(self, message: str) -> None:
        speaker = threading.Thread(target=self._say, args=(message,), daemon=True)
        speaker.start()
        speaker.join(_LAST_WORDS_S)
        end_process(EXIT_CODE)

    def _say(self, message: str) -> None:
        frame = sys._current_frames().get(self._device.ident or 0)
        where = "".join(traceback.format_stack(frame)) if frame is not None else "The thread has ended."
        # The stack is a field of its own, not part of the message, as with exceptions.
        record = log.makeRecord(
            log.name, logging.CRITICAL, __file__, 0, message, (), None, sinfo=f"Device thread:\n{where}"
        )
        log.handle(record)
        for handler in logging.getLogger().handlers:
            handler.flush()


def end_process(code: int) -> None:
    """End the process at once, without waiting for threads: the one that hangs never ends."""
    os._exit(code)
