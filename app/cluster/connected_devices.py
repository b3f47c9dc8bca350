"""All Devices that a Front is connected to: which of them a key belongs to, by the ring with bounded loads.

Does not know the engine, which tells where Devices are.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from functools import partial

from app.cluster.calls import Answer, Call
from app.cluster.connection import Connection, Reply
from app.cluster.keys import is_held
from app.cluster.listener import Address
from app.cluster.ring import Ring, within_bounds
from app.errors import ShuttingDown

log = logging.getLogger(__name__)


class ConnectedDevices:
    """`lost` is called when a Device is stopped or lost, so that others are looked for."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._connections: dict[str, Connection] = {}
        self._left: set[Connection] = set()
        """Devices that get no more calls, but may still answer what they were asked."""
        self._connecting: dict[str, asyncio.Task[str]] = {}
        self._ring = Ring(())
        self._is_any = asyncio.Event()
        """Set where nobody should wait: there is a Device, or none will be waited for."""
        self._is_draining = False

    async def ask(self, key: str, call: Call) -> Answer:
        """See Devices."""
        return await (await self._chosen(key)).ask(call)

    async def ask_in_steps(self, key: str, call: Call) -> AsyncGenerator[Reply, None]:
        """See Devices."""
        async with aclosing((await self._chosen(key)).ask_in_steps(call)) as steps:
            async for step in steps:
                yield step

    async def know(self, addresses: Iterable[Address]) -> dict[str, str]:
        """Connect to those that are new. Return why not, for the names of those that it cannot connect to."""
        wanted = {each.name: each for each in addresses}
        for name in wanted.keys() - self._connections.keys() - self._connecting.keys():
            left = next((each for each in self._left if each.address.name == name), None)
            if left is not None:
                if not left.is_over:  # the engine had only forgotten it
                    self._left.discard(left)
                    self._add(left)
                continue
            task = asyncio.create_task(self._connect(wanted[name]))
            self._connecting[name] = task
            task.add_done_callback(partial(self._forget, name))
        tasks = {name: task for name, task in self._connecting.items() if name in wanted}
        if tasks:
            await asyncio.wait(tasks.values())  # not cancelled with who waits, as others may wait too
        return {name: task.result() for name, task in tasks.items() if task.result()}

    def keep(self, names: Iterable[str]) -> None:
        """Send no more calls to Devices that the engine does not run any more, also if they stand still."""
        for name in self._connections.keys() - set(names):
            self._end(self._connections[name])

    def drain(self) -> None:
        """See Devices."""
        self._is_draining = True
        self._is_any.set()

    def close(self) -> None:
        """End all connections."""
        for task in self._connecting.values():
            task.cancel()
        for connection in [*self._connections.values(), *self._left]:
            connection.abort()

    async def _connect(self, address: Address) -> str:
        """Connect to a Device. Return why it cannot be."""
        try:
            connection = await Connection.to(address, self._end)
        except (OSError, TimeoutError) as error:
            return f"this Front cannot connect to {address.host}:{address.port}: {error or 'no answer'}"
        if connection.is_over:
            return "it is being stopped"
        self._add(connection)
        return ""

    def _add(self, connection: Connection) -> None:
        self._connections[connection.address.name] = connection
        self._change()

    def _forget(self, name: str, _: object) -> None:
        del self._connecting[name]

    def _end(self, connection: Connection) -> None:
        """Send no more calls to a Device."""
        name = connection.address.name
        if self._connections.get(name) is connection:
            del self._connections[name]
            self._left.add(connection)
            self._change()
            self._lost()
        if connection.is_lost:
            self._left.discard(connection)

    def _change(self) -> None:
        self._ring = Ring(self._connections, before=self._ring)
        if self._connections or self._is_draining:
            self._is_any.set()
        else:
            self._is_any.clear()

    async def _chosen(self, key: str) -> Connection:
        """Return the Device for a call. Waits while there is none, as long as the request may. See Devices.ask."""
        while not self._connections:
            if self._is_draining:
                raise ShuttingDown()
            await self._is_any.wait()
        ranked = self._ring.ranked(key or uuid.uuid4().hex)
        owner = self._connections[ranked[0]]
        if is_held(key):
            return owner
        names = within_bounds(
            ranked,
            lambda name: self._connections[name].under_way,
            total=sum(each.under_way for each in self._connections.values()),
            devices=len(self._connections),
            always_taken=owner.address.always_taken,
        )
        return self._connections[names[0]]
