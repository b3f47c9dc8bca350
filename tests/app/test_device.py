"""Jobs on the device thread: whose callers leave, and what a failing one gives back."""

import asyncio
import threading

import pytest

from app.device import DeviceThread
from app.errors import ShuttingDown
from tests.fakes import LONG_S


async def held() -> tuple[DeviceThread, threading.Event, "asyncio.Task[bool]"]:
    """A device that is busy with a job until the event is set."""
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
    """StopIteration too, which an asyncio future cannot hold: next() of nothing must not hang the start."""
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
