"""A Ray that runs already, on many machines, which this server joins as a Front. Ending it ends no Device.

Does not know about requests.
"""

import asyncio
import logging
import socket
from contextlib import suppress
from typing import Self

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.serve import context
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from app.cluster.chosen_devices import ClusterError
from app.cluster.device_actor import APPLICATION, DEPLOYMENT
from app.cluster.ray_devices import RayDevices
from app.service.segmentation import DeviceState
from app.settings import Settings

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_PATIENCE_S = 5.0
"""Time in which the head of the cluster takes a connection, or says who controls the Devices."""


class JoinedCluster:
    """A Ray of others, joined while this is entered. `connect` waits for the Devices that `serve deploy` starts."""

    def __init__(self, settings: Settings) -> None:
        self._address = settings.cluster

    def __enter__(self) -> Self:
        """Join. Raises ClusterError."""
        logging.getLogger("ray").setLevel(logging.WARNING)
        try:
            if self._address != "auto":  # Ray would try for a minute and a half
                host, _, port = self._address.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
            ray.init(address=self._address, configure_logging=False, log_to_driver=False)
        except Exception as error:  # Ray's errors have no common type; each says what is missing
            raise ClusterError(
                f"SAM2_CLUSTER={self._address} cannot be joined: {error}. A Ray of the cluster must run on this "
                "machine too ('ray start --address=HEAD:6379'), and its token be in RAY_AUTH_TOKEN, in the file "
                "that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Leave. The Devices stay."""
        ray.shutdown()

    async def connect(self) -> RayDevices:
        """Wait until the Devices are deployed, and return them."""
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        is_told = False
        while not await asyncio.to_thread(_is_deployed):
            if not is_told:
                log.warning(
                    "No devices are deployed; 'serve deploy deploy/ray/sam2.yaml' does it. Waiting for them."
                )
                is_told = True
            await asyncio.sleep(_EVERY_S)
        return JoinedDevices(await asyncio.to_thread(_controller))


class JoinedDevices(RayDevices):
    """Devices that others start and end. Finds them again where they were ended and deployed anew."""

    def __init__(self, controller: ActorHandle) -> None:
        super().__init__(serve.get_deployment_handle(DEPLOYMENT, APPLICATION))
        self._controller = controller

    async def states(self, *, patience_s: float) -> list[DeviceState]:
        """See Devices."""
        try:
            found = await super().states(patience_s=patience_s)
        except Exception:  # Ray's errors have no common type; the caller sees it too
            await self._find_again()
            raise
        if not found:
            await self._find_again()
        return found

    async def _find_again(self) -> None:
        """Ask the Ray Serve that runs now, if it is not the one that this handle knows."""
        # There may be none yet, or no head that could say so: then `states` is asked again.
        with suppress(Exception):
            controller = await asyncio.wait_for(asyncio.to_thread(_controller), _PATIENCE_S)
            if controller == self._controller:
                return
            context._disconnect()
            if await asyncio.wait_for(asyncio.to_thread(_is_deployed), _PATIENCE_S):
                old = self._handle
                self._use(serve.get_deployment_handle(DEPLOYMENT, APPLICATION))
                self._controller = controller
                log.info("The devices were deployed anew; asking those")
                await old.shutdown_async()


def _controller() -> ActorHandle:
    """Return what controls the Devices. Raises ValueError if nothing does."""
    return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)


def _is_deployed() -> bool:
    found = serve.status().applications.get(APPLICATION)
    return found is not None and DEPLOYMENT in found.deployments
