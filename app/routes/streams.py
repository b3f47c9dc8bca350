"""Connections with many prompts: the newest wins, idle connections are closed, and all at shutdown.

Does not know about prompts, keys and JSON; a PromptSource does.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, Protocol, TypeVar

from app.errors import Overloaded
from app.scheduling.shares import Shares

MAX_MESSAGE_BYTES = 8 * 2**20
"""Largest message: room for logits and any mask as RLE. The protocol closes with 1009 beyond it."""

GOING_AWAY, IDLE = 1001, 4408

_MOST_OF_ONE_ADDRESS = 256

Item = TypeVar("Item")


class Ended(Exception):
    """The connection must be closed with this code, or was closed by the client if the code is None."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class PromptSource(Protocol[Item]):
    """One connection, as a source of prompts."""

    async def receive(self) -> Item | None:
        """Return the next prompt; None for a message that is not a prompt and was handled. Raises Ended."""

    async def answer(self, item: Item) -> None:
        """Answer a prompt. Raises Ended."""

    async def skip(self, item: Item) -> None:
        """Tell the client that a prompt is skipped, because a newer one arrived."""

    def drop(self, item: Item) -> None:
        """Forget a prompt of a connection that has ended."""


class Stream(Generic[Item]):
    """Reads and answers concurrently. One prompt runs; of the others only the newest waits."""

    def __init__(self, source: PromptSource[Item], *, idle_s: float) -> None:
        self._source = source
        self._idle_s = idle_s
        self._waiting: Item | None = None
        self._changed = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        """End it with 1001 once the running prompt is answered."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> Ended:
        """Run until the connection ends. Returns how it ended."""
        ended = Ended(None)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._receive_all())
                group.create_task(self._answer_all())
        except* Ended as ends:
            for end in ends.exceptions:
                if isinstance(end, Ended):
                    ended = end
        finally:
            if self._waiting is not None:
                self._source.drop(self._waiting)
        return ended

    async def _receive_all(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    item = await self._source.receive()
            except TimeoutError:
                raise Ended(IDLE, f"no message for {self._idle_s:g} s (SAM2_STREAM_IDLE_S)") from None
            if item is None:
                continue
            replaced, self._waiting = self._waiting, item
            self._changed.set()
            if replaced is not None:
                await self._source.skip(replaced)

    async def _answer_all(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._waiting is not None:
                item, self._waiting = self._waiting, None
                await self._source.answer(item)
            if self._stopping:
                raise Ended(GOING_AWAY, "the server is shutting down")


class Streams:
    """The open connections of a server."""

    def __init__(self) -> None:
        self._stops: set[Callable[[], None]] = set()
        self._all_closed = asyncio.Event()
        self._of_addresses = Shares(_MOST_OF_ONE_ADDRESS)

    @contextmanager
    def place(self, address: str, *, stop: Callable[[], None]) -> Iterator[None]:
        """Count a connection while the block runs. `stop` must end it. Raises Overloaded."""
        if not self._of_addresses.admits(address, 1):
            raise Overloaded("Too many connections to /decode/stream are open. Close some.", retry_after_s=10)
        self._of_addresses.add(address, 1)
        self._stops.add(stop)
        self._all_closed.clear()
        try:
            yield
        finally:
            self._of_addresses.remove(address, 1)
            self._stops.discard(stop)
            if not self._stops:
                self._all_closed.set()

    async def close(self, *, patience_s: float) -> None:
        """Stop all connections and wait for their end, at most `patience_s` seconds."""
        if not self._stops:
            return
        for stop in self._stops:
            stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._all_closed.wait()
