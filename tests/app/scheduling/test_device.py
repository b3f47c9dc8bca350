"""Jobs on the device thread: callers that go away, and the error of a failing job."""

import asyncio
import threading
import time

import pytest

from app.errors import ShuttingDown
from app.scheduling.device import DeviceThread
from tests.fakes import LONG_S, until


async def held() -> tuple[DeviceThread, threading.Event, "asyncio.Task[bool]"]:
    """Start a device that is busy with a job until the event is set."""
    device, gate, entered = DeviceThread(), threading.Event(), threading.Event()
    device.start()

    def job() -> bool:
        entered.set()
        return gate.wait(LONG_S)

    running = asyncio.create_task(device.run(job))
    assert await asyncio.to_thread(entered.wait, LONG_S)
    return device, gate, running


@pytest.mark.parametrize("closing", [False, True])
async def test_a_job_whose_caller_has_gone_is_not_run(closing: bool) -> None:
    device, gate, running = await held()
    ran: list[str] = []
    gone = asyncio.create_task(device.run(lambda: ran.append("gone")))
    stays = asyncio.create_task(device.run(lambda: ran.append("stays")))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    closed = asyncio.create_task(device.close()) if closing else None
    await asyncio.sleep(0)
    gate.set()
    assert await running
    if closed is not None:
        with pytest.raises(ShuttingDown):
            await stays
    else:
        await stays
    await device.close()
    assert ran == ([] if closing else ["stays"])


@pytest.mark.parametrize("failure", [ValueError("bad"), StopIteration("no parameter")])
async def test_a_failure_of_a_job_reaches_its_caller(failure: Exception) -> None:
    """Includes StopIteration, which an asyncio future cannot hold: a next() on nothing must not hang the start."""
    device = DeviceThread()
    device.start()

    def fail() -> None:
        raise failure

    with pytest.raises((ValueError, RuntimeError)) as caught:
        await device.run(fail)
    assert failure in (caught.value, caught.value.__cause__)
    assert await device.run(lambda: "next") == "next"
    await device.close()
    with pytest.raises(ShuttingDown):
        await device.run(lambda: "late")


async def test_who_has_an_answer_does_not_hear_that_the_device_hangs() -> None:
    device, heard = DeviceThread(), list[float | None]()
    device.start()
    gone = threading.Event()

    def answer() -> None:
        heard.append(device.busy_since)
        while time.monotonic() == heard[0]:
            pass
        device.post(lambda: heard.append(device.busy_since))
        gone.wait(LONG_S)

    running = asyncio.create_task(device.run(answer))
    await until(lambda: len(heard) == 2)
    assert heard[0] is not None
    assert heard[1] is not None
    assert heard[1] > heard[0]
    gone.set()
    await running
    await device.close()


async def test_a_batch_may_wait_for_a_story_on_the_event_loop() -> None:
    device, here = DeviceThread(), threading.get_ident()
    device.start()

    async def tell(what: str) -> tuple[str, int]:
        await asyncio.sleep(0)
        if what == "bad":
            raise ValueError(what)
        return what, threading.get_ident()

    assert await device.run(lambda: device.await_loop(lambda: tell("good"))) == ("good", here)
    with pytest.raises(ValueError, match="bad"):
        await device.run(lambda: device.await_loop(lambda: tell("bad")))
    await device.close()


async def test_a_batch_gives_a_story_up_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.scheduling.device._LOOP_PATIENCE_S", 0.01)
    device = DeviceThread()
    device.start()
    given_up = asyncio.Event()

    async def wait_for_good() -> None:
        try:
            await asyncio.sleep(LONG_S)
        finally:
            given_up.set()

    with pytest.raises(ShuttingDown):
        await device.run(lambda: device.await_loop(wait_for_good))
    await given_up.wait()
    closed = asyncio.new_event_loop()
    closed.close()
    monkeypatch.setattr(device, "_loop", closed)
    outcome = device._jobs.add(lambda: device.await_loop(wait_for_good))
    while not outcome.done():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert isinstance(outcome.result().exception(), ShuttingDown)
    monkeypatch.undo()
    await device.close()


async def test_a_device_without_work_says_once_that_it_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.scheduling.device.IDLE_S", 0.02)
    device, said = DeviceThread(), threading.Semaphore(0)
    device.on_idle = said.release
    device.start()
    for number in range(2):
        assert await device.run(lambda number=number: number) == number  # type: ignore[misc]
        assert await asyncio.to_thread(said.acquire, timeout=LONG_S)
        assert not await asyncio.to_thread(said.acquire, timeout=0.1)
    assert device.busy_since is None
    await device.close()
