"""Fair sharing of bounded resources: how much each client may hold, and whose turn is next.

A share is whatever counts as one client. Does not know about keys, addresses and HTTP.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Event
from typing import TypeVar

from app.errors import ShuttingDown
from app.scheduling.abandoned import Abandoned, abandoned_by, check_wanted
from app.scheduling.letting_go import held_while_running

T = TypeVar("T")

_OF_THE_FREE = 3
"""A share may hold this many times what is left free."""
_MANY = 10_000
"""Beyond this number of remembered shares, those that do not wait are dropped: addresses are unlimited."""


class Shares:
    """How much of a resource each share holds, bounded so that none can hold all of it.

    A single share may hold `alone`; all together hold at most a third more. Nothing is reserved for a particular
    share: a share may hold three times what is left free after it. So k shares that take all they can get hold
    3/(3k+1) of the whole each, and 1/(3k+1) stays free for the next (Choudhury and Hahne, "Dynamic queue length
    thresholds for shared-memory packet switches", 1998). Not thread-safe.
    """

    def __init__(self, alone: int) -> None:
        self.alone = alone
        self.capacity = alone + -(-alone // _OF_THE_FREE)
        self.used = 0
        self._held: dict[str, int] = {}

    def held(self, share: str) -> int:
        """Return the amount that a share holds."""
        return self._held.get(share, 0)

    def admits(self, share: str, amount: int) -> bool:
        """Whether a share may hold this much more."""
        free = self.capacity - self.used - amount
        return self.held(share) + amount <= _OF_THE_FREE * free

    def turns(self, share: str, place: int) -> int:
        """Return how many are served, in turn, up to and including the one at `place` (from 1) of the share."""
        ahead = sum(min(held, place) for other, held in self._held.items() if other != share)
        return place + ahead

    def add(self, share: str, amount: int) -> None:
        """Record that a share holds this much more. The caller must check `admits` first."""
        self.used += amount
        self._held[share] = self.held(share) + amount

    def remove(self, share: str, amount: int) -> None:
        """Record that a share holds this much less."""
        self.used -= amount
        self._held[share] -= amount
        if not self._held[share]:
            del self._held[share]


class Rotation:
    """Whose turn is next: shares that were never served, then the one served longest ago.

    So a newcomer goes first once, and a client that sends one request at a time goes no more often than others.
    """

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._turn = 0

    def next(self, waiting: Collection[str]) -> str:
        """Return one of the waiting shares, which must not be empty, and count it as served."""
        share = min(waiting, key=lambda share: self._served.get(share, 0))
        if len(self._served) >= _MANY:
            self._served = {share: at for share, at in self._served.items() if share in waiting}
        self._turn += 1
        self._served[share] = self._turn
        return share


class Turns:
    """A semaphore of `places` that is fair between shares: a free place goes to the share that holds the fewest.

    `reserved` additional places are only for shares that hold none, so that these need not wait for a free place.
    Belongs to one event loop.
    """

    def __init__(self, places: int, *, reserved: int) -> None:
        self._places = places
        self._reserved = reserved
        self._taken = 0
        self._held: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the share served longest ago first

    @asynccontextmanager
    async def turn(self, share: str) -> AsyncIterator[None]:
        """Wait for a place and hold it while the block runs."""
        await self.enter(share)
        try:
            yield
        finally:
            self.leave(share)

    async def enter(self, share: str) -> None:
        """Wait for a place, and hold it until `leave`."""
        if self._free_for(share):
            self._enter(share)
        else:
            await self._wait(share)

    def _free_for(self, share: str) -> bool:
        limit = self._places if share in self._held else self._places + self._reserved
        return self._taken < limit

    def _enter(self, share: str) -> None:
        self._taken += 1
        self._held[share] = self._held.get(share, 0) + 1

    async def _wait(self, share: str) -> None:
        called = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(share, deque()).append(called)
        try:
            await called
        except asyncio.CancelledError:
            if called.cancelled():
                self._forget(share, called)
            else:  # called and cancelled at the same moment: pass the place on
                self.leave(share)
            raise

    def leave(self, share: str) -> None:
        """Give back a place of a share."""
        self._taken -= 1
        self._held[share] -= 1
        if not self._held[share]:
            del self._held[share]
        while candidates := [share for share in self._waiting if self._free_for(share)]:
            following = min(candidates, key=lambda share: self._held.get(share, 0))
            called = self._waiting[following][0]
            self._forget(following, called)
            if not called.done():
                self._enter(following)
                called.set_result(None)

    def _forget(self, share: str, called: "asyncio.Future[None]") -> None:
        """Remove a waiter from the line, if it is still there, and put its share behind the others."""
        line = self._waiting.pop(share, deque())
        if called in line:
            line.remove(called)
        if line:
            self._waiting[share] = line


class Workers:
    """Threads for jobs that would block the event loop. A free one serves the share with the fewest jobs here.

    A job counts for its share until it has really ended. If its caller goes or misses its deadline, `check_wanted`
    raises in the job from then on.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="worker")
        # Two places for each thread, so that a thread that ends a job finds the next without the event loop.
        self._turns = Turns(2 * threads, reserved=0)
        self._closed = False
        self._running: set[Event] = set()

    async def run(self, job: Callable[[], T], *, share: str) -> T:
        """Run a job in a thread. Raises what it raises, and ShuttingDown if its turn comes after `close`."""
        await self._turns.enter(share)
        abandoned, held = Event(), held_while_running(job)

        def attempt() -> T:
            with abandoned_by(abandoned):
                check_wanted()
                return held()

        def end(future: "asyncio.Future[T]") -> None:
            self._running.discard(abandoned)
            self._turns.leave(share)
            if not future.cancelled():
                future.exception()  # its caller may have gone, and then nobody asks for it

        try:
            if self._closed:
                raise ShuttingDown
            running = asyncio.get_running_loop().run_in_executor(self._pool, attempt)
        except BaseException:
            self._turns.leave(share)
            raise
        self._running.add(abandoned)
        running.add_done_callback(end)
        try:
            return await asyncio.shield(running)
        except Abandoned:  # by `close`: its caller still waits
            raise ShuttingDown from None
        except asyncio.CancelledError:
            if running.cancelled():  # by `close`, before it began
                raise ShuttingDown from None
            abandoned.set()
            raise

    @property
    def is_working(self) -> bool:
        """Whether a job is running, or its end has not been noticed yet."""
        return bool(self._running)

    def close(self) -> None:
        """End the threads when their jobs have ended or noticed it. Drops the waiting jobs."""
        self._closed = True
        for abandoned in self._running:
            abandoned.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
