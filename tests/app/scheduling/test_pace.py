"""Admission when time is short: which pace counts, who is ahead in the queue, and the Retry-After."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from app.errors import DeadlineExceeded, Overloaded
from app.scheduling import batching
from app.scheduling.batching import Batcher, Ran
from app.scheduling.deadlines import left_s, within
from app.scheduling.pace import Pace, has_become_late, is_late, too_late
from app.scheduling.shares import Rotation, Shares
from tests.app.scheduling.gated_device import LONG_S, Device, outcomes, started, submitted


class Clock:
    """A clock that advances only when a batch runs, by the seconds that its items name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(batching, "monotonic", lambda: self.now)

    def run(self, items: Sequence[str]) -> Sequence[str]:
        """An item names its seconds; other items take 1 s. A batch takes as long as its slowest item."""
        self.now += max(float(item) if item.replace(".", "").isdigit() else 1.0 for item in items)
        return items


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The batcher's clock."""
    return Clock(monkeypatch)


async def measured(device: Device, clock: Clock, *seconds: float, max_batch: int = 1) -> Batcher[str, str]:
    """Return a batcher that has run items of these durations, one after the other."""
    batcher = device.batcher(clock.run, max_batch=max_batch)
    for item in seconds:
        await batcher.submit(str(item), deadline_s=LONG_S)
    return batcher


@asynccontextmanager
async def behind(
    device: Device, batcher: Batcher[str, str], *calls: Awaitable[object]
) -> AsyncIterator[list[asyncio.Future[object]]]:
    """Keep one item running and these calls waiting while the block runs. Then cancel the remaining calls."""
    blocked = await device.block(batcher)
    tasks = await submitted(*calls)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        device.gate.set()
        await outcomes([*tasks, blocked])


async def is_let_in(
    batcher: Batcher[str, str], items: Sequence[str], *, deadline_s: float, share: str = ""
) -> bool:
    """Whether a call is admitted. Frees its place again."""
    (task,) = await submitted(batcher.submit_all(items, deadline_s=deadline_s, share=share))
    if task.done():
        assert isinstance(task.exception(), Overloaded)
        return False
    task.cancel()
    await outcomes([task])
    return True


async def test_what_cannot_be_done_before_its_deadline_is_refused_at_once(clock: Clock) -> None:
    async with started() as device:
        batcher = await measured(device, clock, 2.0, 2.0)
        await device.block(batcher)
        tasks = await submitted(*(batcher.submit(item, deadline_s=15) for item in "ab"))
        # 2 s for the running item, 2 s for each of three.
        with pytest.raises(
            Overloaded, match=r"1 item in the decode queue .* 8\.0 s, and 10\.0 s are"
        ) as refusal:
            await batcher.submit("c", deadline_s=10)
        assert refusal.value.retry_after_s == 2
        assert await is_let_in(batcher, "c", deadline_s=12.5)  # no more than the margin is required
        device.gate.set()
        assert [type(outcome) for outcome in await outcomes(tasks)] == [Ran, Ran]
        assert device.batches[2:] == [["block"], ["a"], ["b"]]


@pytest.mark.parametrize("busy", [False, True])
async def test_who_finds_nobody_waiting_is_let_in_at_any_pace(clock: Clock, busy: bool) -> None:
    async with started() as device:
        batcher = await measured(device, clock, 100.0, 100.0, 100.0)
        if busy:
            await device.block(batcher)
        (task,) = await submitted(batcher.submit_all(["a"], deadline_s=5))
        device.gate.set()
        assert isinstance((await outcomes([task]))[0], list)


async def test_a_pace_that_was_slow_is_found_to_be_faster_by_those_who_are_let_in(clock: Clock) -> None:
    async with started() as device:
        batcher = await measured(device, clock, *[40.0] * 8)
        async with behind(device, batcher, batcher.submit("a", deadline_s=LONG_S)):
            assert not await is_let_in(batcher, "b", deadline_s=LONG_S)
        for _ in range(7):
            assert await is_let_in(batcher, "c", deadline_s=LONG_S)
            await batcher.submit("1", deadline_s=LONG_S)
        async with behind(device, batcher, batcher.submit("a", deadline_s=LONG_S)):
            assert await is_let_in(batcher, "b", deadline_s=LONG_S)


@pytest.mark.parametrize("seconds", [[40.0], [1.0, 1.0, 40.0], [1.0, 1.0, 300.0]])
async def test_one_slow_start_and_one_stall_turn_nobody_away(clock: Clock, seconds: list[float]) -> None:
    async with started() as device:
        batcher = await measured(device, clock, *seconds)
        async with behind(device, batcher, batcher.submit("a", deadline_s=LONG_S)):
            assert await is_let_in(batcher, "b", deadline_s=LONG_S)


async def test_a_pace_of_long_ago_turns_nobody_away(clock: Clock) -> None:
    async with started() as device:
        batcher = await measured(device, clock, *[50.0] * 8)
        async with behind(device, batcher, batcher.submit("a", deadline_s=LONG_S)):
            assert not await is_let_in(batcher, "b", deadline_s=LONG_S)
            clock.now += 61
            assert await is_let_in(batcher, "b", deadline_s=LONG_S)


async def test_a_crowd_is_refused_for_its_own_line_and_a_guest_is_not(clock: Clock) -> None:
    async with started() as device:
        batcher = await measured(device, clock, 1.0, 1.0)
        crowd = [batcher.submit("c", deadline_s=60, share="crowd") for _ in range(30)]
        async with behind(device, batcher, *crowd):
            assert not await is_let_in(batcher, "c", deadline_s=6, share="crowd")
            assert await is_let_in(batcher, "g", deadline_s=6, share="guest")
            assert not await is_let_in(
                batcher, "ggg", deadline_s=6, share="guest"
            )  # six turns and the running item


async def test_a_click_is_let_in_behind_a_large_request_of_the_same_client(clock: Clock) -> None:
    async with started() as device:
        batcher = await measured(device, clock, 1.0, 1.0)
        async with behind(device, batcher, batcher.submit_all(["c"] * 30, deadline_s=60)):
            assert await is_let_in(batcher, "g", deadline_s=6)
            assert not await is_let_in(batcher, "ggg", deadline_s=6)


async def test_a_batch_counts_once_for_all_that_share_it(clock: Clock) -> None:
    async with started() as device:
        batcher = device.batcher(clock.run, max_batch=4)
        await batcher.submit_all(["1.0"] * 8, deadline_s=LONG_S)
        async with behind(device, batcher, batcher.submit_all(["a"] * 4, deadline_s=LONG_S)):
            assert await is_let_in(batcher, "bbbb", deadline_s=4.5)  # the running batch, a full one, its own
            assert not await is_let_in(batcher, "bbbbb", deadline_s=4.5)


class Steps(Clock):
    """A batch starts only after the callers of the previous one have their results."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self._answered = threading.Semaphore(1)

    def run(self, items: Sequence[str]) -> Sequence[str]:
        """Run like the clock, after the previous batch is delivered."""
        assert self._answered.acquire(timeout=LONG_S)
        return super().run(items)

    def on_batch(self, size: int, seconds: float) -> None:
        """Let the next batch start. For the batcher's `on_batch`."""
        self._answered.release()


async def test_who_cannot_be_in_time_any_more_is_told_so_and_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Steps(monkeypatch)
    async with started() as device:
        batcher = device.batcher(steps.run, max_batch=1, on_batch=steps.on_batch)
        device.gate.clear()
        slow = await submitted(*(batcher.submit("50", deadline_s=1000) for _ in range(2)))
        await device.wait_until_entered()
        first, second, third, large = await submitted(
            batcher.submit("a", deadline_s=200),
            batcher.submit("b", deadline_s=200),
            batcher.submit("c", deadline_s=250),  # in time, because b is dropped
            batcher.submit_all(["d1", "d2"], deadline_s=200),
        )
        device.gate.set()
        for late in (second, large):
            with pytest.raises(Overloaded, match=r"[12] items? in .* 100\.0 s are left"):
                await late
        assert [type(outcome) for outcome in await outcomes([*slow, first, third])] == [Ran] * 4
        assert device.batches == [["50"], ["50"], ["a"], ["c"]]
        assert batcher.waiting == 0


async def test_a_call_that_waits_alone_is_not_given_up_before_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Steps(monkeypatch)
    async with started() as device:
        batcher = device.batcher(steps.run, max_batch=1, on_batch=steps.on_batch)
        for _ in range(2):
            await batcher.submit("30", deadline_s=LONG_S)
        assert len(await batcher.submit_all(["30", "1", "1"], deadline_s=LONG_S)) == 3


async def test_batches_that_were_larger_and_smaller_are_no_pace_of_each_other() -> None:
    pace = Pace(8)
    for at in range(2):
        pace.note(1, 2.0, at=at)
    assert [pace.seconds(count, at=0) for count in (1, 4, 8, 16)] == [2, 8, 16, 32]
    pace = Pace(8)
    for at in range(2):
        pace.note(8, 2.0, at=at)
    assert [pace.seconds(count, at=0) for count in (1, 8, 9)] == [2, 2, 4]


def test_nothing_is_known_of_an_unused_queue() -> None:
    assert Pace(4).seconds(1000, at=5) == 0
    assert not is_late(0, left_s=1)
    assert not is_late(1e9, left_s=float("inf"))


def test_who_was_let_in_may_stay_while_the_pace_changes_a_little() -> None:
    times = [number / 10 for number in range(1, 100)]
    let_in = [seconds for seconds in times if not is_late(seconds, left_s=5)]
    assert all(not has_become_late(1.2 * seconds, left_s=5) for seconds in let_in)


@pytest.mark.parametrize("seconds", [4.0, 7.3, 20.0, 1000.0])
def test_after_retry_after_the_queue_is_short_enough_and_not_long_before(seconds: float) -> None:
    refusal = too_late("A click", seconds, left_s=5, all_s=10_000)
    assert not is_late(seconds - refusal.retry_after_s, left_s=5)
    assert is_late(seconds - refusal.retry_after_s + 1, left_s=5)
    assert too_late("A click", seconds, left_s=5, all_s=3).retry_after_s <= 3  # the queue is empty then


@pytest.mark.parametrize("held", [{"a": 5}, {"a": 5, "b": 2, "c": 9}, {"a": 1, "b": 1}])
def test_turns_are_those_that_are_taken(held: dict[str, int]) -> None:
    shares, rotation, left = Shares(100), Rotation(), dict(held)
    for share, amount in held.items():
        shares.add(share, amount)
    for share in held:  # fixes the order among equals: a is last
        rotation.next([share])
    rotation.next(["a"])
    taken = list[str]()
    while any(left.values()):
        share = rotation.next([share for share, amount in left.items() if amount])
        left[share] -= 1
        taken.append(share)
    ends = [number + 1 for number, share in enumerate(taken) if share == "a"]
    assert [shares.turns("a", place + 1) for place in range(held["a"])] == ends
    assert all(one < other for one, other in pairwise(ends))


async def test_a_deadline_within_another_is_the_earlier_of_the_two() -> None:
    assert left_s() == float("inf")
    async with within(10):
        async with within(1000):
            assert 9 < left_s() <= 10
        async with within(1):
            assert left_s() <= 1
        assert 9 < left_s() <= 10
    assert left_s() == float("inf")
    with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
        async with within(0.01), within(1000):
            await asyncio.sleep(LONG_S)
