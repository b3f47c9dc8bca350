"""A Device as a deployment of Ray Serve: the service of one device, in a process of its own.

Ray starts it, watches it, and starts another one if it dies. Does not know about Fronts.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.serve._private import replica
from ray.serve._private.common import RUNNING_REQUESTS_KEY

from app.cluster.calls import Answering
from app.cluster.fronts import Fronts
from app.cluster.listener import Address, Listener
from app.cluster.of_a_node import settings_on_this_node
from app.cluster.ring import ALWAYS_TAKEN_ON_CPU, ALWAYS_TAKEN_ON_GPU
from app.errors import NotReady
from app.middleware.access import RequestIdFilter
from app.process import spare_what_stays, tune
from app.segmenter import Segmenter
from app.service.loading import load_segmenter
from app.service.local import LocalSegmentation
from app.service.segmentation import DeviceState, FrontState
from app.settings import Settings
from app.telemetry.logs import formatter
from app.telemetry.metrics import Metrics
from app.telemetry.start_tracing import start_tracing

LOOPBACK = "127.0.0.1"
APPLICATION, DEPLOYMENT = "sam2", "Device"

LOGGING = {"log_level": "WARNING", "enable_access_log": False}
"""Of Ray Serve: the Front logs requests, and a line for each call costs its time."""

_QUESTIONS_AT_A_TIME = 96
"""How it is, and its metrics: one a second from each Front. Calls come by its listener."""
_LEAVING_S = 5.0
"""For the end of a Device, beside what is under way."""

_SILENT_S = 10
"""A Device that answers none of three questions for so long is replaced. Its event loop answers, which no encode
holds, however long it takes; but one that many wait for may take seconds where cores are scarce."""

Load = Callable[[Settings], Segmenter]


class Device:
    """One replica. It is made when its model is warm, so Ray sends it nothing before."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, given: dict[str, Any], load: Load, *, is_divided: bool
    ) -> None:
        if not is_divided:
            given = settings_on_this_node(given)
        settings = Settings(**given)
        _log_as_the_front_does(settings)
        tune()
        _listen_where_ray_does()
        self._name: str = serve.get_replica_context().replica_id.unique_id
        self._fronts = Fronts()
        self._traces = start_tracing()
        self._service = LocalSegmentation(settings, Metrics(), load=partial(load, settings))
        await self._service.start()
        if self._service.failure is not None:
            raise NotReady(f"The model could not be loaded: {self._service.failure}")
        self._deadline_s = settings.deadline_s
        self._listener = Listener(
            Answering(self._service, self._name, self._traces),
            always_taken=ALWAYS_TAKEN_ON_GPU if ray.get_gpu_ids() else ALWAYS_TAKEN_ON_CPU,
        )
        await self._listener.open(ray.util.get_node_ip_address())
        spare_what_stays()

    async def state(self, front: FrontState) -> tuple[Address, DeviceState]:
        """See Devices.states. `front` is who asks. Also return where it is asked."""
        self._fronts.note(front)
        state = replace(self._service.state(name=self._name), fronts=self._fronts.lately())
        return self._listener.address, state

    async def figures(self) -> tuple[str, bytes]:
        """See Devices.figures."""
        return self._name, await self._service.figures()

    def check_health(self) -> None:
        """Raise if the device is lost or hangs. Ray then replaces the replica."""
        self._service.ready()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Ray how many calls are under way, in place of those that it counts itself."""
        return {RUNNING_REQUESTS_KEY: self._listener.under_way}

    async def __del__(self) -> None:
        """Called by Ray when the replica is stopped: what was asked is answered, what was promised is written."""
        await self._listener.close(patience_s=self._deadline_s)
        await self._service.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)


def application(
    given: dict[str, Any],
    *,
    replicas: int,
    gpus: int,
    deadline_s: float,
    load: Load = load_segmenter,
    is_divided: bool = True,
) -> serve.Application:
    """Return what Ray Serve runs: `replicas` Devices with `gpus` GPUs each, with these settings.

    If they are not divided, each Device takes its part of the node that it runs on.
    """
    deployment = serve.deployment(
        Device,
        name=DEPLOYMENT,
        num_replicas=replicas,
        max_ongoing_requests=_QUESTIONS_AT_A_TIME,
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus},
        health_check_period_s=2,
        health_check_timeout_s=_SILENT_S,
        graceful_shutdown_timeout_s=deadline_s + _LEAVING_S,
        graceful_shutdown_wait_loop_s=0.2,
        max_constructor_retry_count=2,
        logging_config=LOGGING,
    )
    bound: serve.Application = deployment.bind(given, load, is_divided=is_divided)
    return bound


def _listen_where_ray_does() -> None:
    """Let a Ray that listens on this machine only do so for calls between replicas too.

    The port is opened when the replica has been made. It asks for Ray's token, but others need not see it at all.
    """
    if ray.util.get_node_ip_address() == LOOPBACK:
        opened = replica.add_port_to_grpc_server
        replica.add_port_to_grpc_server = lambda server, _: opened(server, f"{LOOPBACK}:0")


def _log_as_the_front_does(settings: Settings) -> None:
    """Write to standard error itself, which Ray passes on to the Front's. Ray Serve has put a file in its place."""
    handler = logging.StreamHandler(sys.__stderr__)
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(formatter(settings.log_format))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "ray"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
