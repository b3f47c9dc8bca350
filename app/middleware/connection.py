"""Cancels work when its client disconnects. Does not know what the work is."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The client disconnected before its answer was ready. Nobody reads a reply."""


async def while_connected(receive: Receive, story: Coroutine[Any, Any, T]) -> T:
    """Run `story`, but cancel it when its client disconnects, which frees its place in the queue.

    `receive` is ASGI's, after the whole body has been read. Raises ClientGone, and whatever the story raises.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        patience.reschedule(-math.inf)  # the timeout expires at once

    try:
        async with asyncio.timeout(None) as patience:
            watching = asyncio.create_task(watch())
            try:
                return await story
            finally:
                watching.cancel()
    except TimeoutError as error:
        if not patience.expired():
            raise  # the story's own
        raise ClientGone from error
