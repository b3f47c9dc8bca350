"""The one thread that owns the device, and the order in which it takes work from its queues.

Knows nothing of tensors, of HTTP, and of how a queue makes batches.
"""

import asyncio
import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, TypeVar

from app.errors import ShuttingDown

T = TypeVar("T")
Item = TypeVar("Item")

log = logging.getLogger(__name__)

_OVERTAKEN = 4
"""Urgent work may take so many times the time of the batch that it overtakes: so that one gets a fifth at least."""
_OVERTAKEN_S = 0.05
"""And so much whatever that is: the first click need not wait until a batch has earned it."""
_LOOP_PATIENCE_S = 10.0
"""An event loop that has not answered by then is closed: it is held up for milliseconds, never for seconds."""


class Queue(Protocol):
    """Work for the device that waits: batching.py's Batcher is one."""

    @property
    def priority(self) -> float:
        """Of the queues of one device, the one with the lower priority goes first."""

    @property
    def waiting(self) -> int:
        """How much waits. The device holds `changed`."""

    def take(self) -> Callable[[], None] | None:
        """The next piece of work, which raises nothing; None where none waits. The device holds `changed`."""

    def drain(self) -> None:
        """Answer all who wait, and all who come, with ShuttingDown."""


@dataclass(slots=True)
class _Running:
    """What the thread is at."""

    priority: float
    since: float
    interrupted: "_Running | None"
    overtaken_s: float = 0.0
    """For what overtook it, since then."""


class DeviceThread:
    """The one thread on which everything of the device runs: load, warm-up and every batch.

    Belongs to the event loop on which `start` is called. A daemon, so that a device that hangs for good
    cannot keep the process from ending.
    """

    def __init__(self) -> None:
        self.busy_since: float | None = None
        """time.monotonic() at the last sign of life of what runs now, None while idle; for a watchdog."""
        self.changed = threading.Condition()
        """Guards every queue of this device; held for queue operations only, never while anything runs."""
        self._jobs = _Jobs(self.changed)
        self._queues: list[Queue] = [self._jobs]  # by priority
        self._running: _Running | None = None
        self._served: Queue | None = None  # the last one that gave work, jobs apart
        self._closing = False
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop  # from `start` on, and so wherever the thread runs
        self._thread = threading.Thread(target=self._main, name="device", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs: from `start` to `close`, unless it broke."""
        return self._thread.is_alive()

    @property
    def ident(self) -> int | None:
        """The thread's, as `threading` has it; None before `start`."""
        return self._thread.ident

    def start(self) -> None:
        """Start the thread, once. Needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job, such as loading or warming up, on the thread, before any batch that waits.

        Jobs overtake too. Raises what the job raises, and ShuttingDown where the device closes before the job
        begins.
        """
        attempt: Future[T] = await asyncio.wrap_future(self._jobs.add(job))
        return attempt.result()

    def overtake(self) -> None:
        """Let urgent work pass: a long batch calls this between its steps, on the device thread.

        Runs one waiting batch of each queue that goes before the one now running: one each, and none while they
        have had their share of the time, so that clicks without end slow an encode down but cannot stop it. Their
        failures go to their own callers.
        """
        running = self._running
        if threading.current_thread() is not self._thread or running is None:
            raise RuntimeError("overtake() is for a batch to call, on the device thread")
        self.busy_since = started_at = monotonic()  # a long batch that gets here does not hang
        own_s = started_at - running.since - running.overtaken_s
        if running.overtaken_s > _OVERTAKEN * own_s + _OVERTAKEN_S:
            return
        for queue in self._queues:
            if queue.priority < running.priority:
                with self.changed:
                    work = queue.take()
                if work is not None:
                    self._do(work, queue.priority)
        running.overtaken_s += monotonic() - started_at

    def nobody_waits(self) -> bool:
        """Whether what runs now holds nobody up: no queue has work, and nothing was interrupted. For it to ask."""
        with self.changed:
            interrupts = self._running is not None and self._running.interrupted is not None
            return not interrupts and not any(queue.waiting for queue in self._queues)

    def await_loop(self, story: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a story on the event loop, where what is the loop's may be touched: a batch calls this and waits.

        Raises what the story raises, and ShuttingDown where the loop is closed or the story takes too long,
        which is given up then.
        """
        telling = story()
        try:
            ending = asyncio.run_coroutine_threadsafe(telling, self._loop)
        except RuntimeError:  # the loop is closed
            telling.close()
            raise ShuttingDown() from None
        try:
            return ending.result(_LOOP_PATIENCE_S)
        except (TimeoutError, CancelledError):
            ending.cancel()
            raise ShuttingDown() from None

    async def close(self) -> None:
        """Answer all who wait with ShuttingDown, let the running batch end, and end the thread.

        May be called again. Waits for as long as the running batch takes; with less patience, put a timeout
        around it.
        """
        self._refuse_all()
        if self._thread.ident is not None:
            await self._ended.wait()
            self._thread.join()

    def register(self, queue: Queue) -> None:
        """Take work from this queue from now on."""
        with self.changed:
            self._queues = sorted([*self._queues, queue], key=lambda queue: queue.priority)

    def post(self, callback: Callable[[], None]) -> None:
        """Have the event loop call back. Where it is closed, nobody is left to answer.

        A sign of life where a batch calls it: who has their answer must not hear that the device hangs.
        """
        if self._running is not None and threading.current_thread() is self._thread:
            self.busy_since = monotonic()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def _main(self) -> None:
        try:
            while self._serve_one():
                pass
        except BaseException:
            log.critical("The device thread broke; nothing more will run on it.", exc_info=True)
        finally:
            self.post(self._refuse_all)  # after a break too: nobody waits for what will not run
            self.post(self._ended.set)

    def _serve_one(self) -> bool:
        """Wait for work and do it; false when closing. Its frame holds items, so it ends between waits."""
        with self.changed:
            while (work := self._next()) is None:
                if self._closing:
                    return False
                self.changed.wait()
        self._do(*work)
        return True

    def _next(self) -> tuple[Callable[[], None], float] | None:
        """Of the first queue that has work; of one that has just been served, where the others have none.

        So clicks without end cannot keep an encode from its beginning. Jobs are few, and always go first.
        """
        for queue in sorted(self._queues, key=lambda queue: queue is self._served):
            if (work := queue.take()) is not None:
                self._served = queue if queue is not self._jobs else self._served
                return work, queue.priority
        return None

    def _do(self, work: Callable[[], None], priority: float) -> None:
        self._running = _Running(priority, since=monotonic(), interrupted=self._running)
        self.busy_since = self._running.since
        try:
            work()
        finally:
            self._running = self._running.interrupted
            self.busy_since = None if self._running is None else monotonic()

    def _refuse_all(self) -> None:
        with self.changed:
            self._closing = True
            self.changed.notify()
        for queue in self._queues:
            queue.drain()


class _Jobs:
    """The queue before all others: single jobs, one at a time."""

    priority = -math.inf

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._waiting: deque[tuple[Callable[[], Any], Future[Future[Any]]]] = deque()
        self._draining = False

    def add(self, job: Callable[[], T]) -> "Future[Future[T]]":
        """What will have become of the job: an outcome within, so that its caller gets any exception as it is."""
        outcome: Future[Future[T]] = Future()
        with self._changed:
            if self._draining:
                raise ShuttingDown()
            self._waiting.append((job, outcome))
            self._changed.notify()
        return outcome

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take(self) -> Callable[[], None] | None:
        while self._waiting:
            job, outcome = self._waiting.popleft()
            if outcome.set_running_or_notify_cancel():  # its caller has not gone
                return lambda: outcome.set_result(_attempt(job))
        return None

    def drain(self) -> None:
        with self._changed:
            self._draining = True
            waiting, self._waiting = self._waiting, deque()
        for _, outcome in waiting:
            if outcome.set_running_or_notify_cancel():
                outcome.set_exception(ShuttingDown())


def _attempt(job: Callable[[], T]) -> "Future[T]":
    """The outcome of a job, whatever it raises."""
    attempt: Future[T] = Future()
    try:
        attempt.set_result(job())
    except BaseException as error:
        attempt.set_exception(error)
    return attempt
