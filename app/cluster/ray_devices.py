"""The Devices that Ray Serve runs, as a Front asks them.

Ray tells which there are, and how they are. Calls go on connections of our own: Ray's take three times as long.
Does not know how Devices were started.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from app.cluster.calls import Answer, Call
from app.cluster.connected_devices import ConnectedDevices
from app.cluster.connection import Reply
from app.cluster.listener import Address
from app.service.segmentation import DeviceState, FrontState

log = logging.getLogger(__name__)

_LOOK_S = 2.0


class RayDevices:
    """Implements Devices. Must be made on the event loop, because Ray's router lives there."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._use(handle)
        self._connected = ConnectedDevices(self._look_soon)
        self._names: dict[str, str] = {}
        """Of Devices, by their actors: those that run."""
        self._looking: asyncio.Task[None] | None = None

    def _use(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle.options(request_serialization="pickle", response_serialization="pickle")

    async def ask(self, key: str, call: Call) -> Answer:
        """See Devices."""
        return await self._connected.ask(key, call)

    def ask_in_steps(self, key: str, call: Call) -> AsyncGenerator[Reply, None]:
        """See Devices."""
        return self._connected.ask_in_steps(key, call)

    async def states(self, *, patience_s: float) -> list[DeviceState]:
        """See Devices."""
        try:
            answers: dict[str, tuple[Address, DeviceState] | None] = await self._all(
                "state", patience_s, FrontState.here()
            )
        except DeploymentUnavailableError:  # there is none
            self._connected.keep(())
            raise
        found = [each for each in answers.values() if each is not None]
        # One that stands still says nothing, but runs, until Ray replaces it.
        self._names = {
            actor: each[0].name if each is not None else self._names.get(actor, "")
            for actor, each in answers.items()
        }
        self._connected.keep(self._names.values())
        problems = await self._connected.know(address for address, _ in found)
        return [replace(state, problem=state.problem or problems.get(state.name, "")) for _, state in found]

    async def figures(self, *, patience_s: float) -> list[tuple[str, bytes]]:
        """See Devices."""
        answers = await self._all("figures", patience_s)
        return [each for each in answers.values() if each is not None]

    def drain(self) -> None:
        """See Devices."""
        self._connected.drain()

    async def close(self) -> None:
        """See Devices."""
        if self._looking is not None:
            self._looking.cancel()
        self._connected.close()
        await self._handle.shutdown_async()

    def _look_soon(self) -> None:
        """A Device has gone: look which there are, without waiting for the next time that somebody asks."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        try:
            await self.states(patience_s=_LOOK_S)
        except Exception as error:  # Ray's errors have no common type; who asks next sees it
            log.info("Ray does not tell which devices there are: %s", error)

    async def _all(self, method: str, patience_s: float, *arguments: Any) -> dict[str, Any]:
        """Return what each replica says, by its actor; None for those that do not answer in time."""
        asked = self._handle.broadcast(method, *arguments)
        # Not by `results_async`: for one that does not answer in time, it drops what the others have answered.
        async with asyncio.timeout(patience_s):
            replies = await asked._fetch_replica_results_async()
        found = await asyncio.gather(
            *(asyncio.wait_for(reply.get_async(), patience_s) for reply in replies), return_exceptions=True
        )
        return {
            reply._actor_id.hex(): None if isinstance(each, BaseException) else each
            for reply, each in zip(replies, found, strict=True)
        }
