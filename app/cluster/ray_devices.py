"""The Devices that Ray Serve runs, as a Front asks them.

Does not know how they were started.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from app.cluster.calls import Answer, Call, FrameStep, Step
from app.service.segmentation import DeviceState, FrontState


class RayDevices:
    """Implements Devices. Must be made on the event loop, because Ray's router lives there."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._use(handle)

    def _use(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle.options(request_serialization="pickle", response_serialization="pickle")

    async def ask(self, key: str, call: Call) -> Answer:
        """See Devices."""
        response = self._handle.options(session_id=key).answer.remote(call)
        try:
            found: Answer = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        return found

    async def ask_in_steps(self, key: str, call: Call) -> AsyncGenerator[Step | FrameStep | Answer, None]:
        """See Devices."""
        response = self._handle.options(session_id=key, stream=True).answer_in_steps.remote(call)
        is_whole = False
        try:
            async for step in response:
                yield step
            is_whole = True
        finally:
            if not is_whole:
                response.cancel()

    async def states(self, *, patience_s: float) -> list[DeviceState]:
        """See Devices."""
        return await self._all("state", patience_s, FrontState.here())

    async def figures(self, *, patience_s: float) -> list[tuple[str, bytes]]:
        """See Devices."""
        return await self._all("figures", patience_s)

    def is_lost(self, error: Exception) -> bool:
        """See Devices."""
        return isinstance(error, RayActorError | DeploymentUnavailableError)

    def is_full(self, error: Exception) -> bool:
        """See Devices."""
        return isinstance(error, BackPressureError)

    async def close(self) -> None:
        """See Devices."""
        await self._handle.shutdown_async()

    async def _all(self, method: str, patience_s: float, *arguments: Any) -> list[Any]:
        asked = self._handle.broadcast(method, *arguments)
        # Not by `results_async`: for one that does not answer in time, it drops what the others have answered.
        async with asyncio.timeout(patience_s):
            replies = await asked._fetch_replica_results_async()
        found = await asyncio.gather(
            *(asyncio.wait_for(reply.get_async(), patience_s) for reply in replies), return_exceptions=True
        )
        return [each for each in found if not isinstance(each, BaseException)]
