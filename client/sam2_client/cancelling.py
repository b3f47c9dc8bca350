"""Lets asyncio cancel a request without the loss of its connection.

asyncio cancels a task at whatever it waits for, also where httpx gives a connection back to its pool. A connection
that is lost there counts as busy for ever, and after a hundred of them every request waits in vain. httpx guards
these places from the scopes of anyio, so a request runs in a task of its own, which only such a scope cancels.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar, cast

import anyio

T = TypeVar("T")


async def cancellable(work: Awaitable[T]) -> T:
    """Return the result of work with connections. If this is cancelled, so is the work, in its own time."""
    scope = anyio.CancelScope()

    async def scoped() -> T | None:
        with scope:
            return await work
        return None  # nobody waits for it

    task = asyncio.create_task(scoped())
    task.add_done_callback(_hear)
    try:
        await asyncio.wait({task})  # which leaves the task alone if this is cancelled
    except asyncio.CancelledError:
        scope.cancel()
        await asyncio.wait({task})
        raise
    return cast("T", task.result())


def _hear(task: "asyncio.Task[T | None]") -> None:
    if not task.cancelled():
        task.exception()  # marks it as retrieved: who waited may have been cancelled twice
