"""Closing batchers and their device: waiting calls get an error, the running batch completes or is abandoned."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from app.errors import ShuttingDown
from app.scheduling.device import DeviceThread
from tests.app.scheduling.gated_device import LONG_S, Device, outcomes, started, submitted


def test_drain_answers_who_waits_while_the_running_batch_completes() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher()
            blocked = await device.block(batcher)
            waiting = await submitted(
                batcher.submit("a", deadline_s=LONG_S), batcher.submit_all(["b", "c"], deadline_s=LONG_S)
            )
            batcher.drain()
            batcher.drain()
            assert [type(outcome) for outcome in await outcomes(waiting)] == [ShuttingDown, ShuttingDown]
            assert batcher.waiting == 0
            with pytest.raises(ShuttingDown):
                await batcher.submit("d", deadline_s=LONG_S)
            assert not blocked.done()
            device.gate.set()
            assert (await blocked).result == "BLOCK"
        assert device.batches == [["block"]]

    asyncio.run(story())


def test_close_answers_everyone_waits_for_the_running_batch_and_can_be_repeated() -> None:
    async def story() -> None:
        async with started() as device:
            decode, encode = device.batcher(), device.batcher(name="encode", priority=1)
            blocked = await device.block(decode)
            waiting = await submitted(
                decode.submit("click", deadline_s=LONG_S),
                encode.submit("picture", deadline_s=LONG_S),
                device.thread.run(lambda: "job"),
            )
            closings = await submitted(device.thread.close(), device.thread.close())
            assert [type(outcome) for outcome in await outcomes(waiting)] == [ShuttingDown] * 3
            assert not any(closing.done() for closing in closings)
            device.gate.set()
            await outcomes(closings)
            assert blocked.done()
            assert (await blocked).result == "BLOCK"
            assert not device.thread.alive
            await device.thread.close()
            for refused in (decode.submit("a", deadline_s=LONG_S), device.thread.run(lambda: "job")):
                with pytest.raises(ShuttingDown):
                    await refused

    asyncio.run(story())


def test_closing_a_stuck_device_answers_who_waits_and_can_be_given_up() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher()
            await device.block(batcher)
            waiting = await submitted(batcher.submit("a", deadline_s=LONG_S))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(device.thread.close(), 0.01)
            assert [type(outcome) for outcome in await outcomes(waiting)] == [ShuttingDown]
            assert device.thread.alive

    asyncio.run(story())


def test_a_device_that_never_started_can_be_closed() -> None:
    async def story() -> None:
        thread = DeviceThread()
        assert not thread.alive
        await thread.close()

    asyncio.run(story())


def test_a_batch_that_outlives_the_event_loop_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    gone = threading.Event()

    def run(items: Sequence[str]) -> Sequence[str]:
        gone.set()
        return items

    async def story() -> None:
        device.thread.start()
        await device.block(device.batcher(run))

    asyncio.run(story())
    device.gate.set()
    assert gone.wait(LONG_S)
    assert caplog.records == []
    device.thread._closing = True  # there is no event loop left on which to await close()
    with device.thread.changed:
        device.thread.changed.notify()
    device.thread._thread.join(LONG_S)
    assert not device.thread.alive
