"""What is to be removed from a bucket: at once in the background, and again later if the bucket fails.

A register calls `add` within a transaction, which must not wait for a network. So when a removal's turn has come,
its content may have a name again, by another server, which has found the objects and written nothing: just before
they are removed, the register is asked. Any thread may call it. Does not know what is removed.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

from app.storage.disk_trouble import DiskTrouble
from app.storage.written import WhileNamed, nothing

REMOVERS = 4
"""Contents removed at once, so that thousands that expire together are gone soon."""

AT_A_TIME = 64
"""Contents that one `retry` tries."""

ASK_S = 15.0
"""Longest wait for the register. It gives up earlier, but not while the event loop ends."""

WAIT_S = 5.0
"""Longest wait of a DELETE for its objects. After it they are removed as soon as the bucket can be reached."""


class Removals:
    """Contents that wait to be removed by `remove(content)`, which may raise OSError."""

    def __init__(self, remove: Callable[[str], None], trouble: DiskTrouble) -> None:
        self._remove, self._trouble = remove, trouble
        self._changed = threading.Condition()
        self._left: dict[str, None] = {}  # oldest first
        self._queued: dict[str, Future[None]] = {}
        self._running = set[str]()
        self._threads = ThreadPoolExecutor(REMOVERS, thread_name_prefix="removals")
        self._is_closed = False
        self._is_named: Callable[[str], bool] = lambda _: False

    def spare_named(self, while_named: WhileNamed) -> None:
        """Remove nothing from now on that has a name when its turn has come. Call it on the event loop."""
        loop = asyncio.get_running_loop()

        def is_named(content: str) -> bool:
            asked = asyncio.run_coroutine_threadsafe(_ask(while_named, content), loop)
            try:
                return asked.result(ASK_S)
            except TimeoutError:
                asked.cancel()
                raise

        self._is_named = is_named

    def add(self, content: str, *, at_once: bool = True) -> None:
        """Remove a content soon, if it has no name then; with `at_once` false, when `retry` is called."""
        with self._changed:
            self._left[content] = None
        if at_once:
            self._queue(content)

    def complete(self, content: str) -> None:
        """Remove a content now if it waits for that, because it is about to be written anew. Raises OSError."""
        with self._changed:
            self._changed.wait_for(lambda: content not in self._running)
            if content not in self._left:
                return
            self._running.add(content)
        self._run(content)

    async def wait(self, contents: Collection[str]) -> None:
        """Wait until it has been tried to remove these contents, for at most WAIT_S."""
        with self._changed:
            queued = [self._queued[content] for content in contents if content in self._queued]
        if queued:
            await asyncio.wait(map(asyncio.wrap_future, queued), timeout=WAIT_S)

    def retry(self) -> None:
        """Try again what failed."""
        with self._changed:
            left = [content for content in self._left if content not in self._queued][:AT_A_TIME]
        for content in left:
            self._queue(content)

    def close(self, *, patience_s: float) -> None:
        """Finish what is queued, for at most `patience_s`. What comes later is left to other servers."""
        with self._changed:
            self._is_closed = True
            queued = list(self._queued.values())
        wait_for(queued, patience_s)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _queue(self, content: str) -> None:
        with self._changed:
            if content not in self._queued and not self._is_closed:
                self._queued[content] = self._threads.submit(self._try, content)

    def _try(self, content: str) -> None:
        try:
            try:
                is_named = self._is_named(content)
            except (OSError, sqlite3.Error):
                return  # the register says so itself; `retry` asks again
            if not is_named:
                self.complete(content)
                return
            with self._changed:
                self._left.pop(content, None)
        except OSError as error:
            self._trouble.report("a deleted picture or video cannot be removed yet", error)
        finally:
            with self._changed:
                del self._queued[content]

    def _run(self, content: str) -> None:
        removed = False
        try:
            self._remove(content)
            removed = True
        finally:
            with self._changed:
                self._running.discard(content)
                if removed:
                    self._left.pop(content, None)
                self._changed.notify_all()


async def _ask(while_named: WhileNamed, content: str) -> bool:
    return await while_named(content, nothing)
