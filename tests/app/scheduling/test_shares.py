"""How much of a bounded resource each client may hold, and whose turn is next."""

import asyncio
import threading
import weakref
from typing import Any

import pytest

from app.errors import ShuttingDown
from app.scheduling import shares as shares_module
from app.scheduling.abandoned import check_wanted
from app.scheduling.shares import Rotation, Shares, Turns, Workers
from tests.fakes import LONG_S, until


def fill(shares: Shares, share: str) -> int:
    """Take all that a share can get, one by one. Returns the amount."""
    taken = 0
    while shares.admits(share, 1):
        shares.add(share, 1)
        taken += 1
    return taken


@pytest.mark.parametrize("alone", [1, 2, 3, 4, 5, 64, 1000, 1024, 2**30 + 1])
def test_who_is_alone_gets_exactly_the_whole_and_no_more(alone: int) -> None:
    shares = Shares(alone)
    assert shares.admits("a", alone)
    assert not shares.admits("a", alone + 1)
    shares.add("a", alone)
    assert not shares.admits("a", 1)
    assert shares.capacity <= alone + alone / 3 + 1


def test_however_many_take_all_they_can_get_the_next_one_still_gets_something() -> None:
    shares = Shares(1024)
    got = [fill(shares, str(number)) for number in range(20)]
    assert got[0] == 1024
    assert got[1] == 256  # three quarters of what was left
    assert all(amount > 0 for amount in got[:5])
    assert sum(got) == shares.used <= shares.capacity
    for _ in range(400):  # each returns one and takes one again until all shares are even
        for number in range(20):
            if shares.held(str(number)):
                shares.remove(str(number), 1)
            if shares.admits(str(number), 1):
                shares.add(str(number), 1)
    held = [shares.held(str(number)) for number in range(20)]
    assert max(held) <= 3 * (shares.capacity - shares.used) + 3
    assert shares.admits("newcomer", 1)


def test_what_is_given_back_is_forgotten() -> None:
    shares = Shares(10)
    shares.add("a", 7)
    shares.add("a", 1)
    shares.remove("a", 8)
    assert (shares.used, shares.held("a")) == (0, 0)
    assert shares._held == {}


class Line:
    """Waiters for a place, and the order in which they got one."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.entered: list[str] = []
        self.doors: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def join(self, *names: str) -> None:
        """Join the line. The share is the first letter of the name."""
        for name in names:
            self.doors[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._take(name))
            await asyncio.sleep(0)

    async def _take(self, name: str) -> None:
        async with self.turns.turn(name[0]):
            self.entered.append(name)
            await self.doors[name].wait()

    async def leave(self, *names: str) -> None:
        """Free places, one after the other."""
        for name in names:
            self.doors[name].set()
            await self.tasks[name]
            await asyncio.sleep(0)
            await asyncio.sleep(0)


async def test_a_free_place_goes_to_the_share_that_has_the_fewest() -> None:
    line = Line(Turns(2, reserved=0))
    await line.join("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    assert line.entered == ["a1", "a2"]
    await line.leave("a1")
    assert line.entered[2:] == ["b1"]  # although a3 and a4 came first
    await line.leave("b1")
    assert line.entered[3:] == ["c1"]  # b has had its turn
    await line.leave("a2", "c1")
    assert sorted(line.entered[4:]) == ["a3", "b2"]
    await line.leave("a3", "b2", "a4")
    assert line.entered[6:] == ["a4"]
    assert (line.turns._held, line.turns._waiting, line.turns._taken) == ({}, {}, 0)


async def test_a_share_without_a_place_has_one_kept_for_it() -> None:
    line = Line(Turns(2, reserved=1))
    await line.join("a1", "a2", "a3", "b1", "b2", "c1")
    assert line.entered == ["a1", "a2", "b1"]
    await line.leave("a1")
    assert line.entered[3:] == ["c1"]
    await line.leave("a2", "b1", "c1")
    assert sorted(line.entered[4:]) == ["a3", "b2"]
    await line.leave("a3", "b2")


async def test_who_goes_while_waiting_or_in_the_moment_of_being_called_leaves_no_hole() -> None:
    line = Line(Turns(1, reserved=0))
    await line.join("a1", "a2", "b1", "c1")
    line.tasks["b1"].cancel()
    await asyncio.sleep(0)
    line.doors["a1"].set()
    await asyncio.sleep(0)  # a2 or c1 has been called, but has not run yet
    called = next(name for name in ("a2", "c1") if name[0] in line.turns._held)
    line.tasks[called].cancel()
    other = {"a2": "c1", "c1": "a2"}[called]
    await until(lambda: line.entered == ["a1", other])
    await line.leave(other)
    assert (line.turns._held, line.turns._waiting, line.turns._taken) == ({}, {}, 0)


async def test_jobs_of_one_share_do_not_keep_anothers_from_the_threads() -> None:
    workers = Workers(1)
    gate, order = threading.Event(), list[str]()

    def job(name: str) -> str:
        gate.wait(20)
        order.append(name)
        return name

    many = [asyncio.create_task(workers.run(lambda n=f"a{i}": job(n), share="a")) for i in range(20)]
    await asyncio.sleep(0)
    one = asyncio.create_task(workers.run(lambda: job("b"), share="b"))
    await asyncio.sleep(0)
    gate.set()
    assert await one == "b"
    assert [await task for task in many] == [f"a{i}" for i in range(20)]
    assert order.index("b") <= 3  # behind the jobs that the thread already had
    workers.close()


async def test_whose_turn_comes_after_the_end_is_told_so() -> None:
    workers, gate = Workers(1), threading.Event()
    jobs = [asyncio.create_task(workers.run(lambda: gate.wait(20), share="a")) for _ in range(3)]
    await asyncio.sleep(0)
    workers.close()
    gate.set()
    assert await jobs[0]
    for job in jobs[1:]:  # one was in the pool, which dropped it
        with pytest.raises(ShuttingDown):
            await job


async def test_what_a_job_raises_reaches_its_caller_and_frees_its_place() -> None:
    workers = Workers(1)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 // 0, share="a")
    assert await workers.run(lambda: 5, share="a") == 5
    workers.close()


def test_who_was_served_longest_ago_is_next_and_a_newcomer_before_all() -> None:
    rotation = Rotation()
    assert [rotation.next(["a", "b"]) for _ in range(4)] == ["a", "b", "a", "b"]
    assert [rotation.next(["a", "b", "c"]) for _ in range(4)] == ["c", "a", "b", "c"]
    # A client with one request at a time does not count as a newcomer each time.
    assert [rotation.next(waiting) for waiting in (["a", "c"], ["a"], ["a", "c"])] == ["a", "a", "c"]


def test_who_was_served_is_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares_module, "_MANY", 10)
    rotation = Rotation()
    for number in range(100):
        rotation.next([str(number)])
    assert len(rotation._served) <= 10


async def test_a_job_that_nobody_waits_for_ends_at_its_next_part_and_counts_until_then() -> None:
    workers, entered, gate = Workers(1), threading.Event(), threading.Event()
    parts: list[int] = []

    def job() -> None:
        for part in range(1000):
            check_wanted()
            parts.append(part)
            entered.set()
            gate.wait(LONG_S)

    caller = asyncio.create_task(workers.run(job, share="a"))
    await until(entered.is_set)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert workers.is_working
    assert workers._turns._held == {"a": 1}  # the thread is still taken
    gate.set()
    await until(lambda: not workers.is_working)
    assert workers._turns._held == {}
    assert parts == [0]
    assert await workers.run(lambda: 5, share="b") == 5
    workers.close()


async def test_what_a_job_holds_is_let_go_before_its_caller_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an embedding's place: the next upload found none, because a thread had not let go of a click's."""
    workers, loop, gate = Workers(1), asyncio.get_running_loop(), threading.Event()
    tell = loop.call_soon_threadsafe

    def tell_and_stop(*what: Any, **more: Any) -> asyncio.Handle:
        told = tell(*what, **more)
        assert threading.current_thread() is threading.main_thread() or gate.wait(LONG_S)
        return told

    monkeypatch.setattr(loop, "call_soon_threadsafe", tell_and_stop)
    held = threading.Event()
    is_held = weakref.ref(held)
    caller = asyncio.create_task(workers.run(held.wait, share="a"))
    await until(lambda: workers.is_working)
    held.set()
    assert await caller
    del held
    is_let_go = is_held() is None
    gate.set()
    assert is_let_go
    workers.close()


async def test_a_job_that_misses_its_deadline_before_its_thread_is_free_never_begins() -> None:
    workers, gate, begun = Workers(1), threading.Event(), list[str]()
    first = asyncio.create_task(workers.run(lambda: gate.wait(LONG_S), share="a"))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await workers.run(lambda: begun.append("second"), share="a")
    gate.set()
    assert await first
    await until(lambda: not workers.is_working)
    assert begun == []
    workers.close()


async def test_a_closing_pool_ends_jobs_at_their_next_part() -> None:
    workers, entered = Workers(1), threading.Event()

    def job() -> None:
        while True:
            check_wanted()
            entered.set()

    caller = asyncio.create_task(workers.run(job, share="a"))
    await until(entered.is_set)
    workers.close()
    with pytest.raises(ShuttingDown):
        await caller


def test_outside_of_a_job_everything_is_wanted() -> None:
    check_wanted()
