"""The periodic maintenance of what is stored, which no request does. Does not know what is to be done."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

TEND_S = 1.0
"""Seconds between two runs: expiry, changes by other processes, a disk that works again."""


class Upkeep:
    """Calls `tend` again and again, from `start` to `stop`. `what` is tended, for the log."""

    def __init__(self, tend: Callable[[], Awaitable[object]], what: str) -> None:
        self._tend, self._what = tend, what
        self._tending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._tending = asyncio.create_task(self._tend_for_good())

    async def stop(self) -> bool:
        """End it. Returns whether it had been started."""
        if self._tending is None:
            return False
        tending, self._tending = self._tending, None
        tending.cancel()
        await asyncio.wait([tending])
        return True

    async def _tend_for_good(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            try:
                await self._tend()
            except Exception:  # otherwise maintenance would stop, and nobody would notice
                log.exception("Maintenance of %s failed; it continues.", self._what)
