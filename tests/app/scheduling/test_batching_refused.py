"""Calls that the batcher does not serve: queue full, deadline missed, or cancelled. Each frees its place."""

import asyncio
from collections.abc import Sequence

import pytest

from app.errors import DeadlineExceeded, Overloaded
from app.scheduling import batching
from app.scheduling.batching import Ran
from tests.app.scheduling.gated_device import LONG_S, outcomes, started, submitted


def test_what_does_not_fit_into_the_queue_is_refused_whole() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(max_waiting=3)
            await device.block(batcher)
            tasks = await submitted(batcher.submit_all(["a", "b"], deadline_s=LONG_S))
            with pytest.raises(
                Overloaded, match=r"decode queue holds 2 of at most 3 items; 2 more"
            ) as refusal:
                await batcher.submit_all(["c", "d"], deadline_s=LONG_S)
            assert refusal.value.retry_after_s == 1
            assert batcher.waiting == 2
            tasks += await submitted(batcher.submit("e", deadline_s=LONG_S))
            device.gate.set()
            await outcomes(tasks)
        assert device.batches == [["block"], ["a", "e", "b"]]

    asyncio.run(story())


def test_retry_after_follows_the_recent_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def two_seconds_each(items: Sequence[str]) -> Sequence[str]:
        nonlocal now
        now += 2.0 * len(items)
        return items

    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(two_seconds_each, max_batch=5, max_waiting=50)
            await batcher.submit_all(["warm"] * 50, deadline_s=LONG_S)
            await batcher.submit_all(["warm"] * 50, deadline_s=LONG_S)
            await device.block(batcher)
            waiting = await submitted(batcher.submit_all(["a"] * 50, deadline_s=LONG_S))
            with pytest.raises(Overloaded) as refusal:
                await batcher.submit("b", deadline_s=LONG_S)
            batcher.drain()
            await outcomes(waiting)
        assert 95 <= refusal.value.retry_after_s <= 100

    monkeypatch.setattr(batching, "monotonic", lambda: now)
    asyncio.run(story())


def test_the_deadline_answers_who_waits_and_takes_the_item_from_the_queue() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher()
            await device.block(batcher)
            with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
                await batcher.submit_all(["late", "later"], deadline_s=0.01)
            assert batcher.waiting == 0
        assert device.batches == [["block"]]

    asyncio.run(story())


def test_the_deadline_answers_callers_of_a_batch_that_is_stuck() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher()
            device.gate.clear()
            with pytest.raises(DeadlineExceeded):
                await batcher.submit("stuck", deadline_s=0.01)
            await device.wait_until_entered()
            assert device.thread.busy_since is not None
            device.gate.set()
            assert (await batcher.submit("next", deadline_s=LONG_S)).result == "NEXT"
        assert device.thread.busy_since is None

    asyncio.run(story())


def test_a_caller_who_has_gone_frees_its_place() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(max_waiting=2)
            await device.block(batcher)
            (gone,) = await submitted(batcher.submit_all(["gone 1", "gone 2"], deadline_s=LONG_S))
            gone.cancel()
            assert isinstance((await outcomes([gone]))[0], asyncio.CancelledError)
            assert batcher.waiting == 0
            tasks = await submitted(batcher.submit_all(["a", "b"], deadline_s=LONG_S))
            device.gate.set()
            await outcomes(tasks)
        assert device.batches == [["block"], ["a", "b"]]

    asyncio.run(story())


def test_a_caller_who_goes_while_its_item_runs_disturbs_nobody() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(max_batch=3)
            await device.block(batcher)
            going, alone, staying = await submitted(
                batcher.submit_all(["going 1", "going 2"], deadline_s=LONG_S),
                batcher.submit("alone", deadline_s=LONG_S),
                batcher.submit("staying", deadline_s=LONG_S),
            )
            device.gate.set()
            device.gate.clear()
            await device.wait_until_entered()
            going.cancel()
            alone.cancel()
            await outcomes([going, alone])
            device.gate.set()
            ran = await staying
            assert isinstance(ran, Ran)
            assert ran.result == "STAYING"
        assert device.batches == [["block"], ["going 1", "alone", "staying"]]

    asyncio.run(story())
