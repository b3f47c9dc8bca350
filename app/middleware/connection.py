"""Work that is done only for as long as its client is there to hear of it.

Knows nothing of what the work is.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The client went away before its answer was there; nobody reads what is said now."""


async def while_connected(receive: Receive, story: Coroutine[Any, Any, T]) -> T:
    """Run a story, and give it up when its client goes away: its place in the queue is another's.

    `receive` is ASGI's, after the whole body has been read. Raises ClientGone, and what the story raises.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        patience.reschedule(-math.inf)  # over at once

    try:
        async with asyncio.timeout(None) as patience:
            watching = asyncio.create_task(watch())
            try:
                return await story
            finally:
                watching.cancel()
    except TimeoutError as error:
        raise ClientGone from error
