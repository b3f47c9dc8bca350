"""A Device as a deployment of Ray Serve: the service of one device, in a process of its own.

Ray starts it, watches it, and starts another one if it dies. Does not know about Fronts.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.serve._private import replica
from ray.serve.config import RequestRouterConfig

from app.cluster.calls import Answer, Answering, Call, FrameStep, Step, answer, answer_in_steps
from app.cluster.fronts import Fronts
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

_ROUTER = "app.cluster.ray_router.RingRouter"
"""Sends calls with one key to one replica. Ray calls its interface alpha, so Ray's version is pinned."""
_AT_A_TIME = 96
"""Calls that a replica has at a time, from all Fronts: three batches. Further ones go to successors, or wait."""
_WAITING = 1000
"""Calls that wait in a Front for Devices that all have as many as they take. It refuses further ones."""

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
        self._answering = Answering(self._service, self._name, self._traces)
        spare_what_stays()

    async def answer(self, call: Call) -> Answer:
        """See Devices.ask."""
        return await answer(self._answering, call)

    async def answer_in_steps(self, call: Call) -> AsyncGenerator[Step | FrameStep | Answer, None]:
        """See Devices.ask_in_steps."""
        steps = answer_in_steps(self._answering, call)
        try:
            async for step in steps:
                yield step
        finally:
            await steps.aclose()

    async def state(self, front: FrontState) -> DeviceState:
        """See Devices.states. `front` is who asks."""
        self._fronts.note(front)
        return replace(self._service.state(name=self._name), fronts=self._fronts.lately())

    async def figures(self) -> tuple[str, bytes]:
        """See Devices.figures."""
        return self._name, await self._service.figures()

    def check_health(self) -> None:
        """Raise if the device is lost or hangs. Ray then replaces the replica."""
        self._service.ready()

    async def __del__(self) -> None:
        """Called by Ray when the replica is stopped: what was promised is written."""
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
        max_ongoing_requests=_AT_A_TIME,
        max_queued_requests=_WAITING,
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus},
        health_check_period_s=2,
        health_check_timeout_s=_SILENT_S,
        graceful_shutdown_timeout_s=deadline_s,
        graceful_shutdown_wait_loop_s=0.2,
        max_constructor_retry_count=2,
        logging_config=LOGGING,
        request_router_config=RequestRouterConfig(
            request_router_class=_ROUTER,
            request_router_kwargs={"always_taken": ALWAYS_TAKEN_ON_GPU if gpus else ALWAYS_TAKEN_ON_CPU},
        ),
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
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_farewell)
    for chatty in ("httpx", "httpcore", "ray"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _is_no_farewell(record: logging.LogRecord) -> bool:
    """Whether a line of gRPC's says more than that a client left while its lines waited for the connection."""
    return "ExecuteBatchError" not in record.getMessage()
