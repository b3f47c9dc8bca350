"""A device that runs each batch when the test permits it, and helpers for waiting callers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from app.scheduling.batching import Batcher, Ran
from app.scheduling.device import DeviceThread

LONG_S = 60.0
"""A deadline, in seconds, that a passing test never reaches."""


class Device:
    """A device that records its batches and holds each one while the test keeps the gate shut."""

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
        by_call: bool = False,
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
            by_call=by_call,
            on_batch=on_batch,
        )

    async def wait_until_entered(self) -> None:
        """Wait until one more batch has started."""
        assert await asyncio.to_thread(self.entered.acquire, True, LONG_S)

    async def block(self, batcher: Batcher[str, str]) -> asyncio.Task[Ran[str]]:
        """Keep the device busy with one item, and shut the gate until the test opens it."""
        self.gate.clear()
        while self.entered.acquire(blocking=False):
            pass  # earlier batches
        task = asyncio.create_task(batcher.submit("block", deadline_s=LONG_S))
        await self.wait_until_entered()
        return task


@asynccontextmanager
async def started() -> AsyncIterator[Device]:
    """A device whose thread runs. Fails if the event loop reports an error that reached no caller."""
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
    """Start the calls as tasks. All have passed admission."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def outcomes(tasks: Sequence[asyncio.Future[object]]) -> list[object]:
    """Return the result of each task: its value or its exception."""
    return await asyncio.gather(*tasks, return_exceptions=True)
