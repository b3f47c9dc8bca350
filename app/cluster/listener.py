"""Where a Device answers calls: a port of its own, which Fronts learn of by the engine, with a secret.

Does not know the engine.
"""

import asyncio
import logging
import pickle
import secrets
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from app.cluster.calls import Answer, Answering, Call, answer, answer_in_steps
from app.cluster.messages import Kind, Messages

log = logging.getLogger(__name__)

_Answering: TypeAlias = Callable[[int, bytearray], Coroutine[Any, Any, None]]

AHEAD = 4
"""Steps that a Device is ahead of a Front that has not taken them."""
_ON_ITS_WAY_S = 0.05
"""What was sent to a Device that is being stopped, before that was known, comes within this time."""
_LAST_ANSWERS_S = 2.0
"""In which a Front reads the answers that it has been sent; the process may end after that."""


@dataclass(frozen=True, slots=True)
class Address:
    """What a Front must know to ask a Device."""

    name: str
    host: str
    port: int
    secret: bytes = field(repr=False)
    """Made anew for each Device. Whoever knows it may ask for everything, and run code in the Device's process."""
    always_taken: int
    """See within_bounds (ring.py)."""


class Listener:
    """Answers Fronts. Belongs to the event loop on which it is opened."""

    def __init__(self, device: Answering, *, always_taken: int) -> None:
        self._device, self._always_taken = device, always_taken
        self._secret = secrets.token_bytes(32)
        self._connections: set[_Served] = set()
        self._server: asyncio.Server | None = None
        self.address: Address

    @property
    def under_way(self) -> int:
        """Calls that have not been answered."""
        return sum(len(each.tasks) for each in self._connections)

    async def open(self, host: str) -> None:
        """Listen on a port that is free."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, host, 0)
        port = self._server.sockets[0].getsockname()[1]
        self.address = Address(self._device.name, host, port, self._secret, self._always_taken)

    async def close(self, *, patience_s: float) -> None:
        """Tell Fronts to ask others, answer what has been asked, and end the connections."""
        if self._server is None:
            return
        self._server.close()
        for each in self._connections:
            each.post(Kind.LEAVING)
        await asyncio.sleep(_ON_ITS_WAY_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while tasks := [task for each in self._connections for task in each.tasks.values()]:
                    await asyncio.wait(tasks)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_ANSWERS_S):
                await asyncio.gather(*(each.close() for each in self._connections))
        for each in list(self._connections):
            each.abort()

    def _connection(self) -> "_Served":
        return _Served(self._device, self._secret, self._connections)


class _Served(Messages):
    """The connection of a Front."""

    def __init__(self, device: Answering, secret: bytes, all_of_them: "set[_Served]") -> None:
        super().__init__(secret, is_device=True)
        self._device, self._all = device, all_of_them
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._room: dict[int, asyncio.Semaphore] = {}
        """For steps that have not been taken."""

    def greeted(self) -> None:
        """See Messages."""
        self._all.add(self)

    def received(self, kind: Kind, number: int, data: bytearray) -> None:
        """See Messages."""
        if kind == Kind.CALL:
            self._begin(self._answer, number, data)
        elif kind == Kind.CALL_IN_STEPS:
            self._room[number] = asyncio.Semaphore(AHEAD)
            self._begin(self._answer_in_steps, number, data)
        elif kind == Kind.TAKEN and number in self._room:
            self._room[number].release()
        elif kind == Kind.END and number in self.tasks:
            self.tasks[number].cancel()

    def lost(self, _: ConnectionError) -> None:
        """End what nobody waits for."""
        self._all.discard(self)
        for task in self.tasks.values():
            task.cancel()

    def _begin(self, answering: _Answering, number: int, data: bytearray) -> None:
        task = asyncio.get_running_loop().create_task(self._told_of_failures(answering, number, data))
        self.tasks[number] = task
        task.add_done_callback(lambda _: self._forget(number))

    def _forget(self, number: int) -> None:
        del self.tasks[number]
        self._room.pop(number, None)

    async def _told_of_failures(self, answering: _Answering, number: int, data: bytearray) -> None:
        try:
            await answering(number, data)
        except Exception as failure:  # a bug, or a Front of another version: it waits, so it is told
            log.exception("Internal error")
            told = Answer(bug=f"{type(failure).__name__}: {failure}", device=self._device.name)
            await self._send(number, pickle.dumps(told))

    async def _answer(self, number: int, data: bytearray) -> None:
        await self._send(number, pickle.dumps(await answer(self._device, _read(data))))

    async def _answer_in_steps(self, number: int, data: bytearray) -> None:
        room = self._room[number]
        async with aclosing(answer_in_steps(self._device, _read(data))) as steps:
            async for step in steps:
                await room.acquire()
                await self._send(number, pickle.dumps(step))

    async def _send(self, number: int, data: bytes) -> None:
        try:
            await self.send(Kind.ANSWER, number, data)
        except ConnectionError:
            log.debug("A Front has gone before its answer")
        except asyncio.CancelledError:
            self.post(Kind.END, number)  # in place of what is lacking
            raise


def _read(data: bytearray) -> Call:
    call: Call = pickle.loads(data)  # noqa: S301  # messages are read only of a Front that has proved the secret
    return call
