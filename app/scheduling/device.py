"""The one thread that owns the device, and the order in which it takes work from its queues.

Does not know about tensors, HTTP, or how a queue forms batches.
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

from app.errors import NotReady, ShuttingDown

T = TypeVar("T")
Item = TypeVar("Item")

log = logging.getLogger(__name__)

OVERTAKEN = 4.0
"""Urgent work may take 4 times as long as the batch that it overtakes, which so gets at least 1/5 of the time."""
_OVERTAKEN_S = 0.05
"""Added to that allowance, so that the first click does not have to wait until the batch has run long enough."""
IDLE_S = 30.0
"""A device without work for so long is idle: between the clicks of one person there is less."""
_LOOP_PATIENCE_S = 10.0
"""An event loop that has not answered by then is closed: it may be blocked for milliseconds, never for seconds."""


class Queue(Protocol):
    """Waiting work for the device. The Batcher of batching.py is one."""

    @property
    def priority(self) -> float:
        """The queue's rank: of the queues of one device, the one with the lower priority goes first."""

    @property
    def waiting(self) -> int:
        """The number of waiting items. The device holds `changed`."""

    def take(self) -> Callable[[], None] | None:
        """Return the next piece of work, which must not raise; None if none waits. The device holds `changed`."""

    def drain(self) -> None:
        """Reject all waiting and all new work with ShuttingDown."""


@dataclass(slots=True)
class _Running:
    """The work that the thread is running."""

    priority: float
    since: float
    interrupted: "_Running | None"
    overtaken_s: float = 0.0
    """Seconds since then that went to work that overtook it."""


class DeviceThread:
    """The one thread that runs everything on the device: loading, warm-up and every batch.

    Belongs to the event loop on which `start` is called. It is a daemon thread, so that a device that hangs
    forever cannot keep the process from ending.
    """

    def __init__(self) -> None:
        self.busy_since: float | None = None
        """For a watchdog: time.monotonic() at the last sign of life of the running work; None while idle."""
        self.lost = False
        """Whether `give_up` was called: nothing that runs on the device will succeed."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called once, by the first `give_up`."""
        self.on_idle: Callable[[], None] = lambda: None
        """Called on the thread, once for each IDLE_S or more without work. Must not raise."""
        self.changed = threading.Condition()
        """Guards every queue of this device. Held only for queue operations, never while work runs."""
        self._jobs = _Jobs(self.changed)
        self._queues: list[Queue] = [self._jobs]  # by priority
        self._running: _Running | None = None
        self._served: list[Queue] = []  # the queues that gave work, the last one last
        self._is_idle = False
        self._closing = False
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop  # set by `start`, so it exists whenever the thread runs
        self._thread = threading.Thread(target=self._main, name="device", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs: from `start` to `close`, unless it crashed."""
        return self._thread.is_alive()

    @property
    def ident(self) -> int | None:
        """The thread's identifier, as in `threading`; None before `start`."""
        return self._thread.ident

    def start(self) -> None:
        """Start the thread. May be called only once. Needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job, such as loading or warm-up, on the thread, before waiting batches; of many, in turn with them.

        Jobs also overtake a running batch (see `overtake`). Raises what the job raises, and ShuttingDown if the
        device closes before the job begins.
        """
        attempt: Future[T] = await asyncio.wrap_future(self._jobs.add(job))
        return attempt.result()

    def overtake(self, most: float = OVERTAKEN) -> None:
        """Let urgent work pass. A long batch calls this between its steps, on the device thread.

        Runs one waiting batch of each queue that goes before the running one's, unless these have used up their
        share of the time: `most` times what the batch itself took. So an endless stream of clicks slows an encode
        down but cannot stop it. The failures of urgent batches go to their own callers. Raises RuntimeError if
        called from anywhere else.
        """
        running = self._running
        if threading.current_thread() is not self._thread or running is None:
            raise RuntimeError("overtake() may only be called by a running batch, on the device thread.")
        self.busy_since = started_at = monotonic()  # a long batch that gets here does not hang
        own_s = started_at - running.since - running.overtaken_s
        if running.overtaken_s > most * own_s + _OVERTAKEN_S:
            return
        for queue in self._queues:
            if queue.priority < running.priority:
                with self.changed:
                    work = queue.take()
                if work is not None:
                    self._do(work, queue.priority)
        running.overtaken_s += monotonic() - started_at

    def give_up(self, error: Exception) -> NotReady:
        """Record that the device has failed for good, and return what its callers are told. For any thread."""
        if not self.lost:
            self.lost = True
            self.on_lost()  # first: if standard error is a full pipe, logging hangs
            log.critical("The device is lost: %s. Only a new process can use it; this one ends.", error)
        return NotReady("The device has failed, and the server restarts. Try again later.", retry_after_s=30)

    def nobody_waits(self) -> bool:
        """Whether the running work, which calls this, blocks no other: no queue has work, none is interrupted."""
        with self.changed:
            interrupts = self._running is not None and self._running.interrupted is not None
            return not interrupts and not any(queue.waiting for queue in self._queues)

    def await_loop(self, story: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the event loop and wait for it. For a batch that needs objects owned by the loop.

        Raises what the coroutine raises, and ShuttingDown if the loop is closed or the coroutine takes too long
        (10 s); it is cancelled then.
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
        """Reject all waiting work with ShuttingDown, let the running batch end, and end the thread.

        May be called again. Waits for as long as the running batch takes; put a timeout around it to wait less.
        """
        self._refuse_all()
        if self._thread.ident is not None:
            await self._ended.wait()
            self._thread.join()

    def register(self, queue: Queue) -> None:
        """Take work from this queue too, from now on."""
        with self.changed:
            self._queues = sorted([*self._queues, queue], key=lambda queue: queue.priority)

    def post(self, callback: Callable[[], None]) -> None:
        """Schedule a callback on the event loop. Does nothing if the loop is closed: nobody is left to answer.

        Counts as a sign of life if a batch calls it: a client that has its answer must not see the device reported
        as hanging.
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
            log.critical("The device thread crashed; nothing more will run on it.", exc_info=True)
        finally:
            self.post(self._refuse_all)  # after a crash too: nobody may wait for work that will not run
            self.post(self._ended.set)

    def _serve_one(self) -> bool:
        """Wait for work and run it. False when closing.

        A method of its own: its frame holds items, and it must end before the next wait.
        """
        with self.changed:
            while (work := self._next()) is None:
                if self._closing:
                    return False
                if not self.changed.wait(None if self._is_idle else IDLE_S):
                    break
        self._is_idle = work is None
        self._do(*(work or (self.on_idle, math.inf)))
        return True

    def _next(self) -> tuple[Callable[[], None], float] | None:
        """Return work of the first queue that has some; the queue served last comes last, the one before it second
        last.

        So endless clicks cannot keep an encode from starting, nor clicks and encodes a step of a track, nor endless
        jobs any of these: each embedding that comes back to the device is one.
        """
        served = self._served
        for queue in sorted(
            self._queues, key=lambda queue: served.index(queue) + 1 if queue in served else 0
        ):
            if (work := queue.take()) is not None:
                self._served = [*(each for each in served if each is not queue), queue]
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
    """The queue with the highest priority: single jobs, one at a time."""

    priority = -math.inf

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._waiting: deque[tuple[Callable[[], Any], Future[Future[Any]]]] = deque()
        self._draining = False

    def add(self, job: Callable[[], T]) -> "Future[Future[T]]":
        """Queue a job. The outer future holds an inner one, so that the caller gets any exception unchanged."""
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
            if outcome.set_running_or_notify_cancel():  # its caller has not gone away
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
    """Run a job and return its outcome, whatever it raises."""
    attempt: Future[T] = Future()
    try:
        attempt.set_result(job())
    except BaseException as error:
        attempt.set_exception(error)
    return attempt


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks along the chain: their frames would keep a failed batch's tensors in memory."""
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is not None and link.__traceback__ is not None:
            link.__traceback__ = None
            chain += [link.__cause__, link.__context__]
