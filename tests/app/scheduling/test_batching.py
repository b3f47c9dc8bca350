"""Batches and their results: which calls share a batch, results in order, one answer for each call."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from app.errors import DeadlineExceeded, InferenceFailed, Overloaded
from app.scheduling import batching
from app.scheduling.batching import Ran
from tests.app.scheduling.gated_device import LONG_S, outcomes, started, submitted


def test_an_idle_device_runs_a_lone_item_at_once() -> None:
    async def story() -> None:
        async with started() as device:
            ran = await device.batcher().submit("a", deadline_s=LONG_S)
        assert (ran.result, ran.batch_size) == ("A", 1)
        assert ran.queue_s >= 0
        assert ran.device_s >= 0
        assert device.batches == [["a"]]

    asyncio.run(story())


def test_callers_who_come_while_the_device_is_busy_share_the_next_batch() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher()
            blocked = await device.block(batcher)
            tasks = await submitted(*(batcher.submit(item, deadline_s=LONG_S) for item in "abcde"))
            assert batcher.waiting == 5
            device.gate.set()
            answers = [await task for task in tasks]
            assert (await blocked).batch_size == 1
        assert [ran.result for ran in answers] == list("ABCDE")
        assert {ran.batch_size for ran in answers} == {5}
        assert device.batches == [["block"], list("abcde")]
        assert batcher.waiting == 0

    asyncio.run(story())


def test_results_of_many_items_come_in_order_over_several_batches() -> None:
    async def story() -> None:
        items = [f"item {number}" for number in range(21)]
        async with started() as device:
            answers = await device.batcher(max_batch=4).submit_all(items, deadline_s=LONG_S)
        assert [ran.result for ran in answers] == [item.upper() for item in items]
        assert [len(batch) for batch in device.batches] == [4, 4, 4, 4, 4, 1]

    asyncio.run(story())


def test_no_items_give_no_results_and_no_batch() -> None:
    async def story() -> None:
        async with started() as device:
            assert await device.batcher().submit_all([], deadline_s=LONG_S) == []
        assert device.batches == []

    asyncio.run(story())


def test_every_result_says_how_long_it_waited_and_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def two_seconds(items: Sequence[str]) -> Sequence[str]:
        nonlocal now
        now += 2.0
        return items

    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(two_seconds, max_batch=2)
            blocked = await device.block(batcher)
            (task,) = await submitted(batcher.submit_all(["a", "b", "c"], deadline_s=LONG_S))
            device.gate.set()
            assert await blocked == Ran("block", queue_s=0.0, device_s=2.0, batch_size=1)
            assert await task == [
                Ran("a", queue_s=2.0, device_s=2.0, batch_size=2),
                Ran("b", queue_s=2.0, device_s=2.0, batch_size=2),
                Ran("c", queue_s=4.0, device_s=2.0, batch_size=1),
            ]

    monkeypatch.setattr(batching, "monotonic", lambda: now)
    asyncio.run(story())


def test_the_observer_is_told_of_every_batch() -> None:
    seen: list[tuple[int, float]] = []

    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(max_batch=2, on_batch=lambda size, seconds: seen.append((size, seconds)))
            await batcher.submit_all(["a", "b", "c"], deadline_s=LONG_S)

    asyncio.run(story())
    assert [size for size, _ in seen] == [2, 1]
    assert all(seconds >= 0 for _, seconds in seen)


def test_under_random_load_every_submission_ends_once_and_nothing_is_lost() -> None:
    """Many calls of all sizes on two queues that overflow. Some have short deadlines, are cancelled or fail."""
    chance = random.Random(2)  # noqa: S311
    callers = 6000
    runs: Counter[str] = Counter()
    endings: Counter[str] = Counter()

    async def story() -> None:
        async with started() as device:

            def run(items: Sequence[str]) -> Sequence[str]:
                runs.update(items)
                if any(item.endswith("poison") for item in items):
                    raise ValueError("poison")
                device.thread.overtake()
                return [item.upper() for item in items]

            batchers = [
                device.batcher(run, name=f"queue {priority}", priority=priority, max_waiting=60)
                for priority in range(2)
            ]

            async def call(number: int) -> None:
                items = [f"{number}/{index}" for index in range(chance.choice([1, 1, 1, 2, 5, 40]))]
                if chance.random() < 0.02:
                    items[-1] += " poison"
                deadline_s = chance.choice([0.0, 0.001, LONG_S, LONG_S, LONG_S])
                try:
                    answers = await chance.choice(batchers).submit_all(items, deadline_s=deadline_s)
                except asyncio.CancelledError:
                    endings["gone"] += 1
                    raise
                except (DeadlineExceeded, InferenceFailed, Overloaded) as failure:
                    endings[failure.code] += 1
                else:
                    endings["answered"] += 1
                    assert [ran.result for ran in answers] == [item.upper() for item in items]

            cancelled: list[object] = []
            for crowd in range(0, callers, 300):  # each crowd finds empty queues, however slow the device was
                tasks: list[asyncio.Future[object]] = []
                for number in range(crowd, crowd + 300):
                    tasks.append(asyncio.ensure_future(call(number)))
                    if chance.random() < 0.3:
                        chance.choice(tasks[-20:]).cancel()
                    if chance.random() < 0.4:
                        await asyncio.sleep(0)
                cancelled += [result for result in await outcomes(tasks) if result is not None]
            never_begun = len(cancelled) - endings["gone"]
            assert all(isinstance(result, asyncio.CancelledError) for result in cancelled)
            assert sum(endings.values()) + never_begun == callers
            assert [batcher.waiting for batcher in batchers] == [0, 0]
            assert (await batchers[1].submit("last", deadline_s=LONG_S)).result == "LAST"

    logging.disable(logging.CRITICAL)  # hundreds of useless tracebacks
    try:
        asyncio.run(story())
    finally:
        logging.disable(logging.NOTSET)
    assert max(runs.values()) == 1, "an item ran twice"
    assert endings.keys() == {"answered", "gone", "deadline_exceeded", "inference_failed", "overloaded"}
