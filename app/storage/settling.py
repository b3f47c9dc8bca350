"""Makes what was just written survive a power cut, one after another, in the background.

Does not know what is written.
"""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.storage.disk_trouble import DiskTrouble
from app.storage.written import Written

MOST_SETTLING = 16
"""Files that wait for fsync. Beyond it the operating system writes them in its own time."""


class Settling:
    """Files that wait for fsync. Belongs to the event loop."""

    def __init__(self, trouble: DiskTrouble | None) -> None:
        self._trouble = trouble
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._waiting = 0

    @property
    def has_room(self) -> bool:
        """Whether another one may wait."""
        return self._waiting < MOST_SETTLING

    def settled(self, made: Written) -> Coroutine[Any, Any, None]:
        """Count it as waiting, and return what waits for it. A failure is reported."""
        self._waiting += 1
        return self._settle(made)

    async def _settle(self, made: Written) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, made.settle)
        except OSError as error:
            if self._trouble is not None:
                self._trouble.report("an embedding may not outlive a power cut", error)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread. What waits is left to the operating system."""
        self._thread.shutdown(wait=False, cancel_futures=True)
