"""Many awaiting callers share one device, which a single thread owns.

A batch closes when the device is free, not when a timer fires: while one batch runs the next one fills, and
an idle device takes a lone item at once. Knows nothing of tensors, shapes or HTTP.
"""

import asyncio
import contextlib
import copy
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeAlias, TypeVar

from app.errors import DeadlineExceeded, InferenceFailed, Overloaded, ServiceError, ShuttingDown

Item = TypeVar("Item")
Result = TypeVar("Result")
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ran(Generic[Result]):
    """The result of one item, and what it took to get it."""

    result: Result
    queue_s: float
    """Seconds from submission until its batch started."""
    device_s: float
    """Seconds its whole batch ran, batches that overtook it included."""
    batch_size: int
    """Items in its batch, its own included."""


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
        self._batchers: list[Batcher[Any, Any]] = []  # by priority
        self._running_priority = math.inf  # nothing runs
        self._closing = False
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop  # from `start` on, and so wherever the thread runs
        self._thread = threading.Thread(target=self._main, name="device", daemon=True)
        self._jobs: Batcher[Callable[[], Any], Future[Any]] = Batcher(
            _attempt, name="job", device=self, priority=-math.inf, max_batch=1, max_waiting=100
        )

    @property
    def alive(self) -> bool:
        """Whether the thread runs: from `start` to `close`, unless it broke."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread, once. Needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job, such as loading or warming up, on the thread, before any batch that waits.

        Jobs overtake too. Raises what the job raises, and ShuttingDown where the device closes before the job
        begins.
        """
        attempt: Future[T] = (await self._jobs.submit(job, deadline_s=math.inf)).result
        return attempt.result()

    def overtake(self) -> None:
        """Let urgent work pass: a long batch calls this between its steps, on the device thread.

        Runs one waiting batch of each batcher that goes before the one now running: one each, so that clicks
        without end slow an encode down but cannot stop it. Their failures go to their own callers.
        """
        if threading.current_thread() is not self._thread:
            raise RuntimeError("overtake() is for a batch to call, on the device thread")
        for batcher in self._batchers:
            if batcher.priority < self._running_priority:
                with self.changed:
                    batch = batcher.take()
                if batch is not None:
                    self._do(batch, batcher.priority)

    async def close(self) -> None:
        """Answer all who wait with ShuttingDown, let the running batch end, and end the thread.

        May be called again. Waits for as long as the running batch takes; with less patience, put a timeout
        around it.
        """
        self._refuse_all()
        if self._thread.ident is not None:
            await self._ended.wait()
            self._thread.join()

    def register(self, batcher: "Batcher[Any, Any]") -> None:
        """Take batches of this batcher from now on."""
        with self.changed:
            self._batchers = sorted([*self._batchers, batcher], key=lambda batcher: batcher.priority)

    def post(self, callback: Callable[[], None]) -> None:
        """Have the event loop call back. Where it is closed, nobody is left to answer."""
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
        for batcher in self._batchers:
            if (batch := batcher.take()) is not None:
                return batch, batcher.priority
        return None

    def _do(self, work: Callable[[], None], priority: float) -> None:
        interrupted, self._running_priority = self._running_priority, priority
        self.busy_since = monotonic()
        try:
            work()
        finally:
            self._running_priority = interrupted
            self.busy_since = None if interrupted == math.inf else monotonic()

    def _refuse_all(self) -> None:
        with self.changed:
            self._closing = True
            self.changed.notify()
        for batcher in self._batchers:
            batcher.drain()


@dataclass(slots=True, eq=False)
class _Call(Generic[Item, Result]):
    """One submission: its items, how many of them no batch has taken, and what has come back."""

    items: tuple[Item, ...]
    submitted_at: float
    untaken: int  # guarded by DeviceThread.changed; what follows is the event loop's alone
    # A failure is a value here, not set_exception: asyncio complains of exceptions that nobody fetches, and a
    # caller who has just gone fetches nothing.
    answer: "asyncio.Future[ServiceError | None]"
    ran: dict[int, Ran[Result]] = field(default_factory=dict)

    def settle(self, failure: ServiceError | None) -> None:
        """Resume the caller, unless that has been done or the caller has gone."""
        if not self.answer.done():
            self.answer.set_result(failure)


_Batch: TypeAlias = list[tuple[_Call[Item, Result], int]]
"""Items in the order of a batch: the call, and which of its items."""


class Batcher(Generic[Item, Result]):
    """Makes the submissions of many callers into few calls of `run`, on the device's thread.

    `run` gets 1 to `max_batch` items and returns a result for each, in order. At most `max_waiting` items
    wait. Of the batchers of one device, the one with the lower `priority` goes first. `on_batch` is told the
    size and the seconds of every batch, on the event loop, once its callers are answered.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        name: str,
        device: DeviceThread,
        priority: float,
        max_batch: int,
        max_waiting: int,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        self.priority = priority
        self._run = run
        self._name = name
        self._device = device
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._calls: deque[_Call[Item, Result]] = deque()  # those with untaken items, the next in turn first
        self._waiting = 0  # the sum of their untaken items
        self._draining = False
        self._finished_at = -math.inf
        self._seconds_per_item = 0.0  # lately, time lost to other batchers included
        device.register(self)

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return self._waiting

    async def submit(self, item: Item, *, deadline_s: float) -> Ran[Result]:
        """`submit_all` for one item."""
        return (await self.submit_all([item], deadline_s=deadline_s))[0]

    async def submit_all(self, items: Sequence[Item], *, deadline_s: float) -> list[Ran[Result]]:
        """Results in the order of the items, which may run in several batches, among the items of others.

        All or nothing: raises Overloaded where they do not all fit into the queue, ShuttingDown after
        `drain`, DeadlineExceeded `deadline_s` after submission, InferenceFailed where `run` breaks, and a
        ServiceError of `run` as it is. However it ends, what no batch has taken leaves the queue.
        """
        if not items:
            return []
        call = self._admit(items)
        late = DeadlineExceeded(f"No answer within {deadline_s:g} s.")
        expiry = call.answer.get_loop().call_later(deadline_s, call.settle, late)
        try:
            failure = await call.answer
        finally:
            expiry.cancel()
            self._withdraw(call)
        if failure is not None:
            # All callers of a batch share its failure. Each raises a copy, for an exception raised in many
            # tasks gathers the tracebacks of all.
            raise copy.copy(failure) from failure.__cause__
        return [call.ran[index] for index in range(len(items))]

    def drain(self) -> None:
        """Answer all who wait, and all who come, with ShuttingDown; the running batch goes on."""
        with self._device.changed:
            self._draining = True
            calls, self._calls = self._calls, deque()
            self._waiting = 0
            for call in calls:
                call.untaken = 0
        for call in calls:
            call.settle(ShuttingDown())

    def take(self) -> Callable[[], None] | None:
        """The next batch, ready to run: one item of each call in turn. The device asks, holding `changed`."""
        batch: _Batch[Item, Result] = []
        while self._calls and len(batch) < self._max_batch:
            call = self._calls.popleft()
            batch.append((call, len(call.items) - call.untaken))
            call.untaken -= 1
            if call.untaken:
                self._calls.append(call)
        self._waiting -= len(batch)
        return partial(self._run_batch, batch) if batch else None

    def _admit(self, items: Sequence[Item]) -> _Call[Item, Result]:
        answer = asyncio.get_running_loop().create_future()
        call: _Call[Item, Result] = _Call(tuple(items), monotonic(), len(items), answer)
        with self._device.changed:
            if self._draining:
                raise ShuttingDown()
            if self._waiting + len(items) > self._max_waiting:
                raise Overloaded(
                    f"The {self._name} queue holds {self._waiting} of at most {self._max_waiting} items; "
                    f"{len(items)} more do not fit. Nothing was started.",
                    retry_after_s=max(1, math.ceil(self._waiting * self._seconds_per_item)),
                )
            self._calls.append(call)
            self._waiting += len(items)
            self._device.changed.notify()
        return call

    def _withdraw(self, call: _Call[Item, Result]) -> None:
        with self._device.changed:
            if call.untaken:
                self._calls.remove(call)
                self._waiting -= call.untaken
                call.untaken = 0

    def _run_batch(self, batch: _Batch[Item, Result]) -> None:
        """On the device thread. Nothing that `run` raises gets past here."""
        outcome: Sequence[Result] | ServiceError
        started_at = monotonic()
        try:
            outcome = self._run([call.items[index] for call, index in batch])
            if len(outcome) != len(batch):
                raise ValueError(f"{len(outcome)} results for {len(batch)} items")
        except BaseException as error:  # SystemExit too: it would end only this thread, and leave all waiting
            outcome = self._explain(error)
            for call, _ in batch:
                self._withdraw(call)
        self._device.post(partial(self._deliver, batch, outcome, started_at, monotonic()))

    def _explain(self, error: BaseException) -> ServiceError:
        failure = error
        if not isinstance(failure, ServiceError):
            log.error("A batch of the %s queue broke.", self._name, exc_info=error)
            failure = InferenceFailed("The model failed on this batch; the server goes on.")
            failure.__cause__ = error
        _forget_frames(error)
        return failure

    def _deliver(
        self, batch: _Batch[Item, Result], outcome: Sequence[Result] | ServiceError, start: float, end: float
    ) -> None:
        """Answer the callers of a batch; on the event loop."""
        size = len(batch)
        if isinstance(outcome, ServiceError):
            for call, _ in batch:
                call.settle(outcome)
        else:
            for (call, index), result in zip(batch, outcome, strict=True):
                call.ran[index] = Ran(result, start - call.submitted_at, end - start, size)
                if len(call.ran) == len(call.items):
                    call.settle(None)
        wanted_at = max(self._finished_at, min(call.submitted_at for call, _ in batch))
        self._seconds_per_item += 0.2 * ((end - wanted_at) / size - self._seconds_per_item)
        self._finished_at = end
        if self._on_batch is not None:
            self._on_batch(size, end - start)


def _attempt(jobs: Sequence[Callable[[], T]]) -> list[Future[T]]:
    """The outcome of a batch of one job. Settled futures carry an exception to its caller as it is."""
    attempt: Future[T] = Future()
    try:
        attempt.set_result(jobs[0]())
    except BaseException as error:
        attempt.set_exception(error)
    return [attempt]


def _forget_frames(error: BaseException) -> None:
    """Drop the tracebacks along the chain: their frames would keep a failed batch's tensors in memory."""
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is not None and link.__traceback__ is not None:
            link.__traceback__ = None
            chain += [link.__cause__, link.__context__]
