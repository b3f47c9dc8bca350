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

from app import pages, schemas
from app.access import NO_ANSWER, AccessMiddleware, Receive, Scope, Send
from app.connection import ClientGone
from app.errors import Detail, RetryableError, ServiceError
from app.loading import load_segmenter
from app.metrics import Metrics
from app.routes import router
from app.segmenter import Segmenter
from app.service import SegmentationService
from app.settings import Settings
from app.uploads import BodyBudget

log = logging.getLogger(__name__)

_BODIES = (schemas.EmbedBody, schemas.DecodeBody, schemas.ErrorReply)


def create_app(settings: Settings | None = None, segmenter: Segmenter | None = None) -> FastAPI:
    """The application. `segmenter` takes the place of the model that the settings name."""
    settings = settings or Settings()
    metrics = Metrics()
    load: Callable[[], Segmenter] = (
        partial(load_segmenter, settings) if segmenter is None else lambda: segmenter
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = SegmentationService(settings, metrics, load=load)
        app.state.service = service
        app.state.body_budget = BodyBudget(
            capacity_bytes=settings.max_bodies_mib * 2**20, patience_s=settings.deadline_s
        )
        # The server answers while the model loads: /healthz with 200, all else with 503.
        loading = asyncio.create_task(service.start())
        try:
            yield
        finally:
            await service.close()
            loading.cancel()  # where the device hangs, it would wait for good

    app = FastAPI(
        title="SAM 2 service",
        summary="A picture is embedded once; every click after that comes back in milliseconds.",
        version="0.1.0",
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect has no body that says what is wrong
        responses={"default": {"description": "Any error.", "model": schemas.ErrorReply}},
    )
    app.include_router(router)
    app.include_router(pages.router)
    _add_error_handlers(app, metrics)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _add_error_handlers(app: FastAPI, metrics: Metrics) -> None:
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

    @app.exception_handler(ServiceError)
    async def on_service_error(_: Request, error: ServiceError) -> Response:
        retry = {"Retry-After": str(error.retry_after_s)} if isinstance(error, RetryableError) else None
        return reply(error.status, error.code, error.message, details=error.details, headers=retry)

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

    app.add_middleware(AccessMiddleware, metrics=metrics, on_bug=on_bug)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """openapi.json with the bodies that routes.py parses by itself, for speed and for clear errors."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        _, definitions = models_json_schema(
            [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        app.openapi_schema = document
    return app.openapi_schema
