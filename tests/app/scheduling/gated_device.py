"""A device that runs a batch when a test lets it, and callers who wait for their turn."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from app.scheduling.batching import Batcher, Ran
from app.scheduling.device import DeviceThread

LONG_S = 20.0
"""A deadline that no passing test comes near."""


class Device:
    """A device that writes down its batches, and holds each one at a gate while a test keeps it shut."""

    def __init__(self) -> None:
        self.thread = DeviceThread()
        self.batches: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def batcher(
        self,
        run: Callable[[Sequence[str]], Sequence[str]] = lambda items: [item.upper() for item in items],
        *,
        name: str = "decode",
        priority: int = 0,
        max_batch: int = 8,
        max_waiting: int = 300,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> Batcher[str, str]:
        def held(items: Sequence[str]) -> Sequence[str]:
            self.batches.append(list(items))
            self.entered.release()
            assert self.gate.wait(LONG_S)
            return run(items)

        return Batcher(
            held,
            name=name,
            device=self.thread,
            priority=priority,
            max_batch=max_batch,
            max_waiting=max_waiting,
            on_batch=on_batch,
        )

    async def wait_until_entered(self) -> None:
        """Until one more batch has begun to run."""
        assert await asyncio.to_thread(self.entered.acquire, True, LONG_S)

    async def block(self, batcher: Batcher[str, str]) -> asyncio.Task[Ran[str]]:
        """Keep the device busy with one item, and shut the gate until the test opens it."""
        self.gate.clear()
        while self.entered.acquire(blocking=False):
            pass  # batches of before
        task = asyncio.create_task(batcher.submit("block", deadline_s=LONG_S))
        await self.wait_until_entered()
        return task


@asynccontextmanager
async def started() -> AsyncIterator[Device]:
    """A device with its thread running. Nothing may go wrong behind the callers' backs, in the event loop."""
    device = Device()
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    device.thread.start()
    try:
        yield device
    finally:
        device.gate.set()
        await device.thread.close()
    assert troubles == []


async def submitted(*calls: Awaitable[object]) -> list[asyncio.Future[object]]:
    """The calls as tasks, each past its admission."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def outcomes(tasks: Sequence[asyncio.Future[object]]) -> list[object]:
    """What each task gave: the value, or the exception itself."""
    return await asyncio.gather(*tasks, return_exceptions=True)
