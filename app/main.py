"""Builds the application: settings, service, routes and middleware, in that order."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from app.cluster.devices import Devices
from app.cluster.remote import RemoteSegmentation
from app.doors.doors import open_doors
from app.doors.errors import DoorErrorsMiddleware
from app.middleware.access import QUIET, AccessMiddleware
from app.middleware.browsers import CorsMiddleware, OtherSitesMiddleware, SecurityHeadersMiddleware
from app.middleware.callers import FREE, METRICS, CallersMiddleware
from app.middleware.head_requests import HeadMiddleware
from app.middleware.hosts import HostsMiddleware, allowed_hosts
from app.middleware.keys import ApiKeys
from app.middleware.rates import InFlight, LoopTime
from app.routes import (
    cluster,
    embed_decode,
    everything,
    pages,
    segment,
    server,
    stored_images,
    stream,
    tracks,
    videos,
)
from app.routes.body_budget import BodyBudget, max_body_bytes
from app.routes.error_replies import add_error_handlers
from app.routes.openapi import describe_api
from app.routes.remote_pictures import RemotePictures
from app.routes.streams import Streams
from app.scheduling.shares import Shares
from app.segmenter import Segmenter
from app.service.loading import load_segmenter
from app.service.local import LocalSegmentation
from app.service.segmentation import Segmentation
from app.settings import Settings
from app.storage.opening import sharing_by
from app.telemetry.loop_lag import watch_loop
from app.telemetry.metrics import Metrics
from app.telemetry.start_tracing import start_tracing
from app.version import VERSION

log = logging.getLogger(__name__)


def create_app(
    settings: Settings | None = None,
    segmenter: Segmenter | None = None,
    *,
    connect: Callable[[], Awaitable[Devices]] | None = None,
) -> FastAPI:
    """Return the application. `segmenter` is used instead of the model that the settings name.

    With `connect`, which returns Devices, it loads no model and asks those.

    Raises KeysError if the API keys cannot be read, and SharingError.
    """
    settings = settings or Settings()
    sharing_by(settings)  # now, because a service is made when the server starts
    keys = ApiKeys(settings.api_keys.get_secret_value())
    doors = open_doors(settings.open_doors)
    metrics = Metrics()
    traces = start_tracing()
    load: Callable[[], Segmenter] = (
        partial(load_segmenter, settings) if segmenter is None else lambda: segmenter
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service: Segmentation = (
            LocalSegmentation(settings, metrics, load=load)
            if connect is None
            else RemoteSegmentation(settings, metrics, connect=connect)
        )
        app.state.service = service
        app.state.body_budget = BodyBudget(
            Shares(settings.max_bodies_mib * 2**20), patience_s=settings.deadline_s
        )
        app.state.strangers_budget = BodyBudget(
            # An eighth, but enough for one body, because one may have its key at its end.
            Shares(max(settings.max_bodies_mib * 2**20 // 8, max_body_bytes(settings.max_upload_mib))),
            patience_s=settings.deadline_s,
        )
        # The server answers while the model loads: /healthz with 200, whatever needs the model with 503.
        loading = asyncio.create_task(service.start())
        watching = asyncio.create_task(watch_loop(metrics.observe_loop_lag))
        try:
            async with doors.serving(app):
                yield
        finally:
            await service.close()
            watching.cancel()
            loading.cancel()  # if the device hangs, it would wait forever
            if traces is not None:
                await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="SAM 2 service",
        summary="Embed a picture once; every click after that is answered in milliseconds.",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,  # pages.py has it
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,  # a redirect has no body that explains the error
        # FastAPI creates the spans of requests if traces are exported. Metrics and logs are our own.
        telemetry={
            "tracer_provider": traces.provider if traces is not None else None,
            "tracing": traces is not None,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: scope["path"] in QUIET,
        },
    )
    app.state.keys = keys
    app.state.in_flight = in_flight = InFlight(settings.rate_requests_in_flight)
    app.state.streams = Streams()
    app.state.loop_time = LoopTime()
    app.state.remote_pictures = RemotePictures(
        allowed=settings.allow_urls,
        max_bytes=settings.max_upload_mib * 2**20,
        deadline_s=settings.deadline_s,
    )
    for routes in (
        embed_decode,
        server,
        segment,
        everything,
        stream,
        stored_images,
        cluster,
        pages,
        videos,
        tracks,
    ):
        app.routes.extend(routes.router.routes)
    for router in doors.routers:
        app.routes.extend(router.routes)
    refuse, on_bug = add_error_handlers(app, metrics)
    app.state.refuse = refuse
    # The last one added is outermost. That is CORS, so that browsers can read errors of all the others.
    app.add_middleware(HeadMiddleware)
    app.add_middleware(
        CallersMiddleware,
        keys=keys,
        in_flight=in_flight,
        free=doors.free,
        free_to_read={*FREE, METRICS} if settings.open_metrics else FREE,
        key_of=doors.key_of,
        refuse=refuse,
    )
    if not keys:
        app.add_middleware(OtherSitesMiddleware, origins=settings.cors_origin_list, refuse=refuse)
    app.add_middleware(
        HostsMiddleware, allowed=allowed_hosts(settings.allowed_hosts, host=settings.host), refuse=refuse
    )
    app.add_middleware(AccessMiddleware, metrics=metrics, on_bug=on_bug, traces=traces)
    app.add_middleware(DoorErrorsMiddleware, door_of=doors.of)
    app.add_middleware(SecurityHeadersMiddleware)
    if settings.cors_origin_list:
        app.add_middleware(CorsMiddleware, origins=settings.cors_origin_list, refuse=refuse)
    app.openapi = partial(describe_api, app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def prepare_routes(app: FastAPI) -> None:
    """Do at once what FastAPI leaves to the first request for it: openapi.json.

    The event loop would be held for 150 ms. For a server; an application works without.
    """
    app.openapi()
