"""ASGI middleware that gives every request an id, a log line and metrics. Does not know about FastAPI."""

import logging
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextvars import ContextVar
from http import HTTPStatus
from time import perf_counter
from typing import Any, Protocol, TypeAlias

from app.telemetry.metrics import Metrics
from app.telemetry.stages import Stage, StageTimes

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the current request. Log records carry it."""

trace_context: ContextVar[dict[str, str] | None] = ContextVar("trace_context", default=None)
"""The headers by which another process continues the trace of the current request; None without one."""

ANYONE = ""
"""The tenant of all requests on a server without keys."""

log = logging.getLogger(__name__)

NO_ANSWER = 499
"""As in nginx: the client closed the connection before there was an answer."""

_USABLE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

QUIET = ("/healthz", "/readyz", "/metrics")
"""Paths that are polled every few seconds. Log lines and traces for them would hide those of other requests."""


class Traces(Protocol):
    """The part of Tracing (tracing.py) that serving requests uses."""

    @property
    def provider(self) -> Any:
        """OpenTelemetry's tracer provider, with which FastAPI creates the spans of requests."""

    def end_request(self, stages: Sequence[Stage], *, request_id: str, batch_size: int) -> str:
        """Add the stages of a request to its span. Return its trace id, or "" without a span."""

    def context(self) -> dict[str, str]:
        """Return the headers by which another process continues the trace of the current span."""

    def close(self) -> None:
        """Send the spans that have not been sent yet."""


class AccessMiddleware:
    """Echoes or creates X-Request-ID, logs one line for each request and counts it.

    An exception that the app does not handle is a bug of ours. It is logged here, under the id of its request, and
    `on_bug` answers the request. The log line also shows what other code puts into the scope: `stages`, the
    StageTimes of the request, and `tenant`, the name of the client.
    """

    def __init__(self, app: App, *, metrics: Metrics, on_bug: App, traces: Traces | None = None) -> None:
        self.app = app
        self.metrics = metrics
        self.on_bug = on_bug
        self.traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"x-request-id", b"")
        this_id = sent if _USABLE_ID.fullmatch(sent) else uuid.uuid4().hex.encode()
        token = request_id.set(this_id.decode())
        traced = trace_context.set(self.traces.context() if self.traces is not None else None)
        status = NO_ANSWER
        received = sent_out = 0
        started = perf_counter()

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent_out
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", this_id)]
            if scope["method"] != "HEAD":  # the server leaves its bodies out
                sent_out += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, counting_receive, send_with_id)
        except Exception:  # a bug: log it with its traceback, and answer the client
            log.exception("Internal error")
            if status != NO_ANSWER:
                raise  # a reply has been started; the server cuts it off
            await self.on_bug(scope, receive, send_with_id)
        finally:
            seconds = perf_counter() - started
            self._record(scope, status, seconds, received=received, sent=sent_out)
            trace_context.reset(traced)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float, *, received: int, sent: int) -> None:
        # The route's template, not the path: few values, and no ids in metrics.
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        self.metrics.received_bytes.labels(route).inc(received)
        self.metrics.sent_bytes.labels(route).inc(sent)
        times: StageTimes = scope.get("stages") or StageTimes()
        if status == HTTPStatus.OK:
            self.metrics.observe_stages(times.seconds)
        trace_id = ""
        if self.traces is not None:
            trace_id = self.traces.end_request(
                times.stages, request_id=request_id.get(), batch_size=times.batch_size
            )
        level = logging.DEBUG if scope["path"] in QUIET else logging.INFO
        if not log.isEnabledFor(level):
            return
        stages_ms = {stage: round(1000 * duration, 1) for stage, duration in times.seconds.items()}
        fields = {
            "tenant": scope.get("tenant") or None,
            "method": scope["method"],
            "path": scope["path"],
            "route": route,
            "status": status,
            "duration_ms": round(1000 * seconds, 1),
            "stages_ms": stages_ms or None,
            "batch_size": times.batch_size or None,
            "bytes_in": received,
            "bytes_out": sent,
            "trace_id": trace_id or None,
        }
        log.log(
            level,
            "%s %s %d %.1f ms%s",
            scope["method"],
            scope["path"],
            status,
            1000 * seconds,
            "".join(f", {stage} {duration:.1f}" for stage, duration in stages_ms.items()),
            extra={"fields": {name: value for name, value in fields.items() if value is not None}},
        )


class RequestIdFilter(logging.Filter):
    """Gives every log record the id of its request."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `request_id` to the record. Keep every record."""
        record.request_id = request_id.get()
        return True
