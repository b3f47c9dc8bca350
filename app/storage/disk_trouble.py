"""Log messages about a failing disk or bucket: at once, then once a minute, and when it works again.

A full disk fails a hundred times a second, and one log line says as much. So it is where reads fail and writes in
between do not. Does not know what is on the disk.
"""

import logging
import math
import threading
from collections.abc import Callable
from time import monotonic

log = logging.getLogger(__name__)

QUIET_S = 60.0
"""Seconds between two log lines about the same trouble."""


class DiskTrouble:
    """Reports failures of one folder or bucket, which a setting names. Any thread may call it."""

    def __init__(
        self,
        place: object,
        *,
        setting: str = "SAM2_CACHE_DIR",
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_failure` is called for each failure, on its thread."""
        self._place, self._setting = place, setting
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._failures = 0
        self._last_logged = -math.inf
        self._is_logged = False  # since it worked

    def report(self, what: str, error: Exception) -> None:
        """Report a failed disk operation."""
        self._on_failure()
        with self._lock:
            self._failures += 1
            now = monotonic()
            if now - self._last_logged < QUIET_S:
                return
            self._last_logged, self._is_logged = now, True
            count = self._failures
        times = f" ({count} failures so far)" if count > 1 else ""
        log.error(
            "%s %s: %s: %s%s. The service continues from memory and retries.",
            self._setting,
            self._place,
            what,
            error,
            times,
        )

    def over(self) -> None:
        """Report a successful write: the disk works again."""
        if not self._failures:
            return
        with self._lock:
            failures, self._failures = self._failures, 0
            is_logged, self._is_logged = self._is_logged, False
        if is_logged:
            log.warning("%s %s works again, after %d failures.", self._setting, self._place, failures)
