"""What surrounds every request: its id, its line in the log, its figures.

A plain ASGI middleware; knows nothing of FastAPI.
"""

import logging
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any, TypeAlias

from app.metrics import Metrics

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that is being answered: log records carry it."""

ANYONE = ""
"""The tenant of a server without keys."""

log = logging.getLogger(__name__)

NO_ANSWER = 499
"""As nginx has it: the client closed the connection before there was an answer."""

_USABLE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_QUIET = ("/healthz", "/readyz", "/metrics")


class AccessMiddleware:
    """Echoes or makes X-Request-ID, logs one line for each request and counts it.

    What the app lets through is a fault of ours: it is logged here, under the id of its request, and answered with
    `on_bug`.
    """

    def __init__(self, app: App, *, metrics: Metrics, on_bug: App) -> None:
        self.app = app
        self.metrics = metrics
        self.on_bug = on_bug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"x-request-id", b"")
        this_id = sent if _USABLE_ID.fullmatch(sent) else uuid.uuid4().hex.encode()
        token = request_id.set(this_id.decode())
        status = NO_ANSWER
        started = perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", this_id)]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            log.exception("A fault of the server's own")
            if status != NO_ANSWER:
                raise  # in the middle of a reply, which the server cuts off
            await self.on_bug(scope, receive, send_with_id)
        finally:
            self._record(scope, status, perf_counter() - started)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        # The template, not the path: few values, and no ids in metrics.
        path = getattr(route, "path", "unknown")
        self.metrics.requests.labels(path, str(status)).inc()
        self.metrics.request_seconds.labels(path).observe(seconds)
        level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
        log.log(level, "%s %s %d %.1f ms", scope["method"], scope["path"], status, 1000 * seconds)


class RequestIdFilter(logging.Filter):
    """Gives every log record the id of its request."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `request_id`; keeps every record."""
        record.request_id = request_id.get()
        return True
