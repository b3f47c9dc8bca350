"""Builds the application: settings to service to routes, in order, and every error to its reply."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from app import image_routes, pages, routes, schemas
from app.access import NO_ANSWER, QUIET, AccessMiddleware, App, Receive, Scope, Send, Traces
from app.browsers import CorsMiddleware, SecurityHeadersMiddleware
from app.callers import FREE, METRICS, CallersMiddleware
from app.connection import ClientGone
from app.errors import Detail, ServiceError
from app.keys import ApiKeys
from app.loading import load_segmenter
from app.metrics import Metrics
from app.rates import InFlight
from app.remote_pictures import RemotePictures
from app.segmenter import Segmenter
from app.service import SegmentationService
from app.settings import Settings, wants_traces
from app.shares import Shares
from app.uploads import BodyBudget
from app.version import VERSION

log = logging.getLogger(__name__)

_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_BODIES = (schemas.EmbedBody, schemas.DecodeBody, schemas.ErrorReply)


def create_app(settings: Settings | None = None, segmenter: Segmenter | None = None) -> FastAPI:
    """The application. `segmenter` takes the place of the model that the settings name.

    Raises KeysError where the API keys cannot be read.
    """
    settings = settings or Settings()
    keys = ApiKeys(settings.api_keys.get_secret_value())
    metrics = Metrics()
    traces = _start_tracing() if wants_traces() else None
    load: Callable[[], Segmenter] = (
        partial(load_segmenter, settings) if segmenter is None else lambda: segmenter
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = SegmentationService(settings, metrics, load=load)
        app.state.service = service
        app.state.body_budget = BodyBudget(
            Shares(settings.max_bodies_mib * 2**20), patience_s=settings.deadline_s
        )
        # The server answers while the model loads: /healthz with 200, all else with 503.
        loading = asyncio.create_task(service.start())
        try:
            yield
        finally:
            await service.close()
            loading.cancel()  # where the device hangs, it would wait for good
            if traces is not None:
                await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="SAM 2 service",
        summary="A picture is embedded once; every click after that comes back in milliseconds.",
        version=VERSION,
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,  # a redirect has no body that says what is wrong
        # Spans of requests, where there is somewhere to send them; figures and logs are ours.
        telemetry={
            "tracer_provider": traces.provider if traces is not None else None,
            "tracing": traces is not None,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: scope["path"] in QUIET,
        },
        responses={"default": {"description": "Any error.", "model": schemas.ErrorReply}},
    )
    app.state.keys = keys
    app.state.remote_pictures = RemotePictures(
        allowed=settings.allow_urls,
        max_bytes=settings.max_upload_mib * 2**20,
        deadline_s=settings.deadline_s,
    )
    app.include_router(routes.router)
    app.include_router(image_routes.router)
    app.include_router(pages.router)
    refuse, on_bug = _add_error_handlers(app, metrics)
    # The last one added is outermost: CORS, so that what any of the others refuse can be read by a browser.
    app.add_middleware(
        CallersMiddleware,
        keys=keys,
        in_flight=InFlight(settings.rate_requests_in_flight),
        free={*FREE, METRICS} if settings.open_metrics else FREE,
        refuse=refuse,
    )
    app.add_middleware(AccessMiddleware, metrics=metrics, on_bug=on_bug, traces=traces)
    app.add_middleware(SecurityHeadersMiddleware)
    if settings.cors_origin_list:
        app.add_middleware(CorsMiddleware, origins=settings.cors_origin_list, refuse=refuse)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _start_tracing() -> Traces | None:
    try:
        from app.tracing import Tracing  # here, for the SDK is large and few want it
    except ImportError as error:
        log.warning("OTEL_* asks for traces, which need the extra: pip install '.[otel]' (%s)", error)
        return None
    return Tracing()


def _add_error_handlers(app: FastAPI, metrics: Metrics) -> tuple[Callable[[ServiceError], Response], App]:
    """The reply to an error of ours, and what answers a bug, for those who stand before the app."""

    def reply(
        status: int,
        code: str,
        message: str,
        *,
        details: list[Detail] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        metrics.rejections.labels(code).inc()
        body = schemas.ErrorReply.model_validate(
            {"error": {"code": code, "message": message, "details": details or None}}
        )
        return Response(
            body.model_dump_json(exclude_none=True),
            status_code=status,
            media_type="application/json",
            headers=dict(headers) if headers else None,
        )

    def refuse(error: ServiceError) -> Response:
        return reply(error.status, error.code, error.message, details=error.details, headers=error.headers)

    @app.exception_handler(ServiceError)
    async def on_service_error(_: Request, error: ServiceError) -> Response:
        return refuse(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(_: Request, error: RequestValidationError) -> Response:
        details: list[Detail] = [
            {"where": ".".join(map(str, problem["loc"])), "what": problem["msg"]}
            for problem in error.errors()
        ]
        message = f"{details[0]['where']}: {details[0]['what']}."
        return reply(422, "validation_error", message, details=details)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        """An unknown path or method: Starlette's own errors."""
        code = HTTPStatus(error.status_code).name.lower()
        message = f"{request.method} {request.url.path}: {error.detail}. GET /docs lists what there is."
        return reply(error.status_code, code, message, headers=error.headers)

    @app.exception_handler(ClientGone)
    async def on_client_gone(_: Request, __: ClientGone) -> Response:
        return Response(status_code=NO_ANSWER)  # nobody reads it; the log does

    async def on_bug(scope: Scope, receive: Receive, send: Send) -> None:
        response = reply(500, "internal_error", "The server made a mistake; its log says which. It goes on.")
        await response(scope, receive, send)

    return refuse, on_bug


def _openapi(app: FastAPI) -> dict[str, Any]:
    """openapi.json with the bodies that routes.py parses by itself, for speed and for clear errors."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        _, definitions = models_json_schema(
            [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
        )
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(definitions["$defs"])
        if app.state.keys:
            components["securitySchemes"] = _KEY_SCHEMES
            document["security"] = [{name: []} for name in _KEY_SCHEMES]
        app.openapi_schema = document
    return app.openapi_schema
