"""Turns every error into a reply: one JSON form with a code and a message, wherever it was raised."""

from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.errors import Detail, ServiceError
from app.middleware.access import NO_ANSWER, App, Receive, Scope, Send
from app.middleware.connection import ClientGone
from app.routes.error_schemas import ErrorReply
from app.telemetry.metrics import Metrics

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def add_error_handlers(app: FastAPI, metrics: Metrics) -> tuple[Callable[[ServiceError], Response], App]:
    """Return two functions for the middleware: one makes the reply to a ServiceError, the other answers a bug."""

    def reply(
        status: int,
        code: str,
        message: str,
        *,
        details: list[Detail] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        metrics.rejections.labels(code).inc()
        body = ErrorReply.model_validate(
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
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods_of(request))
        message = f"{request.method} {request.url.path}: {error.detail}. GET /docs lists all endpoints."
        return reply(error.status_code, code, message, headers=headers)

    @app.exception_handler(ClientGone)
    async def on_client_gone(_: Request, __: ClientGone) -> Response:
        return Response(status_code=NO_ANSWER)  # only for the log

    async def on_bug(scope: Scope, receive: Receive, send: Send) -> None:
        response = reply(500, "internal_error", "Internal error; see the server's log for this request id.")
        await response(scope, receive, send)

    return refuse, on_bug


def _methods_of(request: Request) -> Iterator[str]:
    """Yield the methods that a path has. Starlette names those of the first of its routes only."""
    for method in _METHODS:
        asked = {**request.scope, "method": method}
        if any(route.matches(asked)[0] is Match.FULL for route in request.app.routes):
            yield method
            if method == "GET":
                yield "HEAD"  # head_requests.py answers it
