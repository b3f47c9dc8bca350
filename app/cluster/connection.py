"""A Front's connection to a Device: many calls at a time. Does not know which Device a call belongs to."""

import asyncio
import pickle
from collections.abc import AsyncGenerator, Callable
from itertools import count
from typing import Self, TypeAlias, cast

from app.cluster.calls import Answer, Call, FrameStep, Step
from app.cluster.listener import Address
from app.cluster.messages import Kind, Messages

_PATIENCE_S = 2.0
"""For a connection."""


Reply: TypeAlias = Answer | Step | FrameStep


class Connection(Messages):
    """`ended` is called when no more calls should be sent, as the Device is being stopped, and when it is lost."""

    def __init__(self, address: Address, ended: Callable[["Connection"], None]) -> None:
        super().__init__(address.secret, is_device=False)
        self.address = address
        self._ended = ended
        self._numbers = count(1)
        self._takers: dict[int, Callable[[Reply | Exception], None]] = {}
        """Of what comes for each call."""
        self.is_over = False
        """Whether no more calls should be sent."""
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def to(cls, address: Address, ended: Callable[["Connection"], None]) -> Self:
        """Connect. Raises OSError or TimeoutError."""
        async with asyncio.timeout(_PATIENCE_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: cls(address, ended), address.host, address.port
            )
            try:
                await connection._ready
            except BaseException:
                connection.abort()
                raise
        return connection

    @property
    def under_way(self) -> int:
        """Calls of this Front that have not been answered."""
        return len(self._takers)

    async def ask(self, call: Call) -> Answer:
        """Have a call answered. Raises ConnectionError if the Device is lost. When cancelled, the work ends."""
        data, number = pickle.dumps(call), next(self._numbers)
        answered: asyncio.Future[Reply | Exception] = asyncio.get_running_loop().create_future()

        def settle(reply: Reply | Exception) -> None:
            if not answered.done():
                answered.set_result(reply)

        self._takers[number] = settle
        try:
            await self.send(Kind.CALL, number, data)
            reply = await answered
        except asyncio.CancelledError:
            self.post(Kind.END, number)
            raise
        finally:
            del self._takers[number]
        if isinstance(reply, Exception):
            raise reply
        return cast(Answer, reply)

    async def ask_in_steps(self, call: Call) -> AsyncGenerator[Reply, None]:
        """Have a call answered in steps, of which the last one is the answer. When closed, the work ends."""
        data, number = pickle.dumps(call), next(self._numbers)
        steps: asyncio.Queue[Reply | Exception] = asyncio.Queue()
        self._takers[number] = steps.put_nowait
        is_over = False
        try:
            await self.send(Kind.CALL_IN_STEPS, number, data)
            while not is_over:
                reply = await steps.get()
                is_over = isinstance(reply, Answer | Exception)
                if isinstance(reply, Exception):
                    raise reply
                yield reply
                self.post(Kind.TAKEN, number)
        finally:
            del self._takers[number]
            if not is_over:
                self.post(Kind.END, number)

    def greeted(self) -> None:
        """See Messages."""
        if not self._ready.done():
            self._ready.set_result(None)

    def received(self, kind: Kind, number: int, data: bytearray) -> None:
        """See Messages."""
        if kind == Kind.LEAVING:
            self.is_over = True
            self._ended(self)
        elif (take := self._takers.get(number)) is not None:
            take(_read(kind, data))

    def lost(self, error: ConnectionError) -> None:
        """See Messages."""
        if not self._ready.done():
            self._ready.set_exception(error)
        for take in list(self._takers.values()):
            take(error)
        self.is_over = True
        self._ended(self)


def _read(kind: Kind, data: bytearray) -> Reply | Exception:
    if kind == Kind.END:
        return ConnectionError("The device does not go on with this call.")
    try:
        reply: Reply = pickle.loads(data)  # noqa: S301  # read only of a Device that has proved the secret
    except (
        Exception
    ) as error:  # what another version sends may fail in any way: raised where it is waited for
        return error
    return reply
