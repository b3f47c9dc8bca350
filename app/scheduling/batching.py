"""Batching: many waiting callers share the few calls that a device can run.

A batch closes when the device is free, not when a timer fires. While one batch runs, the next one fills; an idle
device takes a single item at once. Does not know about tensors, shapes or HTTP.
"""

import asyncio
import copy
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Generic, TypeAlias, TypeVar

from app.errors import DeadlineExceeded, InferenceFailed, Overloaded, ServiceError, ShuttingDown
from app.scheduling.device import DeviceThread, forget_frames
from app.scheduling.pace import Pace, has_become_late, is_late, too_late
from app.scheduling.shares import Rotation, Shares
from model.errors import DeviceLost

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ran(Generic[Result]):
    """The result of one item, with its waiting time, device time and batch size."""

    result: Result
    queue_s: float
    """Seconds from submission until its batch started."""
    device_s: float
    """Seconds that its whole batch ran, including the batches that overtook it."""
    batch_size: int
    """Items in its batch, including this one."""


@dataclass(slots=True, eq=False)
class _Call(Generic[Item, Result]):
    """One submission: its items, how many of them no batch has taken yet, and the results so far."""

    items: tuple[Item, ...]
    share: str
    submitted_at: float
    due: float
    untaken: int  # guarded by DeviceThread.changed; only the event loop uses the fields below
    # A failure is set as a value, not with set_exception: asyncio logs exceptions that nobody retrieves, and a
    # caller that has just gone away retrieves nothing.
    answer: "asyncio.Future[ServiceError | None]"
    ran: dict[int, Ran[Result]] = field(default_factory=dict)

    def settle(self, failure: ServiceError | None) -> None:
        """Resume the caller, unless it has already been resumed or has gone away."""
        if not self.answer.done():
            self.answer.set_result(failure)


_Batch: TypeAlias = list[tuple[_Call[Item, Result], int]]
"""The items of a batch in order: the call, and the index of the item in it."""


class Batcher(Generic[Item, Result]):
    """Combines the submissions of many callers into few calls of `run`, on the device thread.

    `run` gets 1 to `max_batch` items and returns a result for each, in order. If one item fails alone, a
    ServiceError stands instead of its result. A batch takes one item of each share in turn, and within a share one
    item of each call in turn, so neither a busy client nor a large request delays others by more than a batch. With
    `by_call` a batch is of one call, as large as its caller made it, and calls wait for each other. An item counts
    as `weigh` says, at least 1: those that take longer make smaller batches.

    At most `max_waiting` items of one share wait, and at most a third more of all shares together (see Shares). An
    item that cannot be done before its deadline at the recent pace is rejected. The exception is a call that finds
    the queue empty: it runs, and its time sets the pace for the next one.

    Of the batchers of one device, the one with the lower `priority` goes first. `on_batch` gets the size and the
    seconds of every batch, on the event loop, after its callers have their results.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result | ServiceError]],
        *,
        name: str,
        device: DeviceThread,
        priority: float,
        max_batch: int,
        max_waiting: int,
        by_call: bool = False,
        weigh: Callable[[Item], float] = lambda _: 1.0,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        self.priority = priority
        self._run = run
        self._name = name
        self._device = device
        self._max_batch = max_batch
        self._by_call, self._weigh = by_call, weigh
        self._on_batch = on_batch
        self._calls: dict[str, deque[_Call[Item, Result]]] = {}  # with untaken items, next in turn first
        self._rotation = Rotation()
        self._waiting = Shares(max_waiting)  # the untaken items of these calls
        self._running = 0  # items taken by a batch that has not been delivered
        self._draining = False
        self._finished_at = -math.inf
        self._pace = Pace(max_batch)  # includes time lost to other batchers
        device.register(self)

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return self._waiting.used

    def upcoming(self) -> list[Item]:
        """Return the items that are next of each call, in about the order in which they will be taken."""
        with self._device.changed:
            return [call.items[-call.untaken] for line in self._calls.values() for call in line]

    async def submit(self, item: Item, *, deadline_s: float, share: str = "") -> Ran[Result]:
        """Run one item. See `submit_all`."""
        return (await self.submit_all([item], deadline_s=deadline_s, share=share))[0]

    async def submit_all(
        self, items: Sequence[Item], *, deadline_s: float, share: str = ""
    ) -> list[Ran[Result]]:
        """Return the results in the order of the items, which may run in several batches with items of others.

        All or nothing. Raises Overloaded if the items do not all fit into the queue or would be done too late (this
        may become clear only while they wait); ShuttingDown after `drain`; DeadlineExceeded `deadline_s` after
        submission; InferenceFailed if `run` breaks; and a ServiceError of `run` as it is. In every case, items that
        no batch has taken leave the queue.
        """
        if not items:
            return []
        call = self._admit(items, share, deadline_s)
        late = DeadlineExceeded(f"No answer within {deadline_s:.3g} s.")
        expiry = call.answer.get_loop().call_later(deadline_s, call.settle, late)
        try:
            failure = await call.answer
        finally:
            expiry.cancel()
            self._withdraw(call)
        if failure is not None:
            # All callers of a batch share its failure. Each raises a copy, because an exception raised in many
            # tasks collects the tracebacks of all of them.
            raise copy.copy(failure) from failure.__cause__
        return [call.ran[index] for index in range(len(items))]

    def drain(self) -> None:
        """Reject all waiting and all new calls with ShuttingDown. The running batch continues."""
        with self._device.changed:
            self._draining = True
            calls = [call for line in self._calls.values() for call in line]
            for call in calls:
                self._remove(call)
        for call in calls:
            call.settle(ShuttingDown())

    def take(self) -> Callable[[], None] | None:
        """Return the next batch, ready to run: one item of each share in turn. The device holds `changed`."""
        batch: _Batch[Item, Result] = []
        weight = 0.0
        while self._calls and weight < self._max_batch:
            share = self._rotation.next(self._calls)
            line = self._calls[share]
            call = line.popleft()
            taken = min(call.untaken, self._max_batch) if self._by_call else 1
            first = len(call.items) - call.untaken
            batch += [(call, index) for index in range(first, first + taken)]
            weight += self._weigh(call.items[first])
            call.untaken -= taken
            self._waiting.remove(share, taken)
            if call.untaken:
                line.append(call)
            if not line:
                del self._calls[share]
            if self._by_call:
                break
        self._running += len(batch)
        return partial(self._run_batch, batch) if batch else None

    def _admit(self, items: Sequence[Item], share: str, deadline_s: float) -> _Call[Item, Result]:
        answer = asyncio.get_running_loop().create_future()
        now = monotonic()
        call: _Call[Item, Result] = _Call(tuple(items), share, now, now + deadline_s, len(items), answer)
        with self._device.changed:
            if self._draining:
                raise ShuttingDown()
            if not self._waiting.admits(share, len(items)):
                held, others = self._waiting.held(share), self._waiting.used - self._waiting.held(share)
                raise Overloaded(
                    f"The {self._name} queue holds {held} of at most {self._waiting.alone} items"
                    f"{f' of yours, and {others} of others' if others else ''}; "
                    f"{len(items)} more do not fit. Nothing was started; try again later.",
                    retry_after_s=max(1, math.ceil(self._pace.seconds(self._waiting.used, at=now))),
                )
            if self._calls:
                line = self._calls.get(share, ())
                place = len(items) + sum(min(other.untaken, len(items)) for other in line)
                seconds = self._seconds_until(self._waiting.turns(share, place), at=now)
                if is_late(seconds, left_s=deadline_s):
                    raise self._too_late(call, seconds, at=now)
            self._calls.setdefault(share, deque()).append(call)
            self._waiting.add(share, len(items))
            self._device.changed.notify()
        return call

    def _seconds_until(self, turns: int, *, at: float) -> float:
        """Seconds until `turns` waiting items and the running ones, assumed to have just begun, are done."""
        return self._pace.seconds(self._running, at=at) + self._pace.seconds(turns, at=at)

    def _too_late(self, call: _Call[Item, Result], seconds: float, *, at: float) -> Overloaded:
        items = "item" if len(call.items) == 1 else "items"
        return too_late(
            f"{len(call.items)} {items} in the {self._name} queue",
            seconds,
            left_s=call.due - at,
            all_s=self._seconds_until(self._waiting.used, at=at),
        )

    def _remove_late(self, *, at: float) -> list[tuple[_Call[Item, Result], Overloaded]]:
        """Remove calls that cannot meet their deadline any more at the pace just measured. `changed` is held.

        The last one stays: nobody would gain from its place, and the estimate may be wrong.
        """
        if not self._calls:
            return []
        calls = [call for line in self._calls.values() for call in line]
        left_s = min(call.due for call in calls) - at
        if not has_become_late(self._seconds_until(self._waiting.used, at=at), left_s=left_s):
            return []
        late: list[tuple[_Call[Item, Result], Overloaded]] = []
        for share, line in list(self._calls.items()):
            place = 0
            rounds = deque((call, call.untaken) for call in line)  # in the order of `take`
            while rounds and len(late) + 1 < len(calls):
                call, untaken = rounds.popleft()
                place += 1
                if untaken > 1:
                    rounds.append((call, untaken - 1))
                    continue
                seconds = self._seconds_until(self._waiting.turns(share, place), at=at)
                if has_become_late(seconds, left_s=call.due - at):
                    late.append((call, self._too_late(call, seconds, at=at)))
                    place -= call.untaken
                    self._remove(call)
        return late

    def _withdraw(self, call: _Call[Item, Result]) -> None:
        with self._device.changed:
            if call.untaken:
                self._remove(call)

    def _remove(self, call: _Call[Item, Result]) -> None:
        """Remove a call with untaken items from its line. `changed` is held."""
        line = self._calls[call.share]
        line.remove(call)
        if not line:
            del self._calls[call.share]
        self._waiting.remove(call.share, call.untaken)
        call.untaken = 0

    def _run_batch(self, batch: _Batch[Item, Result]) -> None:
        """Run a batch on the device thread. Catches everything that `run` raises."""
        outcome: Sequence[Result | ServiceError] | ServiceError
        started_at = monotonic()
        try:
            outcome = self._run([call.items[index] for call, index in batch])
            if len(outcome) != len(batch):
                raise ValueError(f"{len(outcome)} results for {len(batch)} items")
        except BaseException as error:  # SystemExit too would end only this thread, and callers would hang
            outcome = self._explain(error)
            for call, _ in batch:
                self._withdraw(call)
        self._device.post(partial(self._deliver, batch, outcome, started_at, monotonic()))

    def _explain(self, error: BaseException) -> ServiceError:
        failure = self._device.give_up(error) if isinstance(error, DeviceLost) else error
        if not isinstance(failure, ServiceError):
            log.error("A batch of the %s queue failed.", self._name, exc_info=error)
            failure = InferenceFailed("The model failed on this batch; the server continues.")
            failure.__cause__ = error
        forget_frames(error)
        return failure

    def _deliver(
        self,
        batch: _Batch[Item, Result],
        outcome: Sequence[Result | ServiceError] | ServiceError,
        start: float,
        end: float,
    ) -> None:
        """Give the callers of a batch their results, on the event loop."""
        size = len(batch)
        if isinstance(outcome, ServiceError):
            for call, _ in batch:
                call.settle(outcome)
        else:
            for (call, index), result in zip(batch, outcome, strict=True):
                if isinstance(result, ServiceError):
                    call.settle(result)
                    continue
                call.ran[index] = Ran(result, start - call.submitted_at, end - start, size)
                if len(call.ran) == len(call.items):
                    call.settle(None)
        wanted_at = max(self._finished_at, min(call.submitted_at for call, _ in batch))
        self._pace.note(size, end - wanted_at, at=end)
        self._finished_at = end
        with self._device.changed:
            self._running -= size
            late = self._remove_late(at=end)
        for call, refusal in late:
            call.settle(refusal)
        if self._on_batch is not None:
            self._on_batch(size, end - start)
