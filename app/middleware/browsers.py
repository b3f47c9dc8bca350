"""Rules for browsers: which other sites may call (CORS), and what our own pages may do (security headers).

Does not know about keys: a key travels in a header that a site must send on purpose, never in a cookie.
"""

from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.errors import BadRequest, OriginRefused, ServiceError
from app.middleware.access import App, Message, Receive, Scope, Send
from app.middleware.callers import READING

EXPOSED_HEADERS = (
    "Content-Disposition", "ETag", "Retry-After", "Server-Timing", "WWW-Authenticate", "X-Request-ID",
    "X-SAM2-Fingerprint", "X-SAM2-Image-ID", "X-SAM2-Model",
)  # fmt: skip
"""Reply headers that scripts of other sites may read."""

_METHODS = ("GET", "HEAD", "POST", "DELETE")
_SENT_HEADERS = ("Authorization", "Content-Type", "If-None-Match", "X-API-Key", "X-Request-ID")
_PREFLIGHT_S = 7200  # the most that Chromium honours

_COMMON_POLICY = "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
PAGE_POLICY = f"default-src 'self'; img-src 'self' blob: data:; form-action 'none'; {_COMMON_POLICY}"
"""Nothing is loaded from other hosts and no inline script runs; pictures are the user's own files."""

DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    f"img-src 'self' data:; form-action 'self'; {_COMMON_POLICY}"
)
"""Policy of /docs. This page is FastAPI's: it has an inline script, and Swagger UI sets styles."""


class CorsMiddleware(CORSMiddleware):
    """Starlette's middleware, but a rejected preflight has the body of our errors.

    It must be the outermost middleware, so that errors of the others carry its headers too.
    """

    def __init__(
        self, app: ASGIApp, *, origins: Collection[str], refuse: Callable[[ServiceError], Response]
    ) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_SENT_HEADERS,
            expose_headers=EXPOSED_HEADERS,
            max_age=_PREFLIGHT_S,
            allow_private_network=True,  # Chromium asks so where a public page calls a server on localhost
        )
        self.refuse = refuse

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer the request that a browser sends before it lets a script send its own."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        reason = bytes(response.body).decode()
        if self.is_allowed_origin(request_headers["origin"]):
            advice = f"Pages may send {', '.join(_METHODS)}, and set {', '.join(_SENT_HEADERS)}."
        else:
            advice = "SAM2_CORS_ORIGINS lists the sites that may call this server."
        refusal = self.refuse(BadRequest(f"{reason}. {advice}"))
        for name in ("vary", "access-control-allow-origin"):
            if name in response.headers:
                refusal.headers[name] = response.headers[name]
        return refusal


def may_connect(headers: Headers, origins: Collection[str]) -> bool:
    """Whether a WebSocket may be opened. CORS does not cover WebSockets, so the server must check.

    Allowed are clients that are not browsers, our own pages, and the pages of `origins`.
    """
    origin = headers.get("origin")
    if origin is None or origin in origins or "*" in origins:
        return True
    # An origin is a scheme and a host. Parsers of URLs raise errors for some that are none.
    return origin.partition("://")[2].lower() == headers.get("host", "").lower() != ""


class OtherSitesMiddleware:
    """Refuses what pages of other sites send without asking first, unless `origins` lists them.

    CORS keeps them from reading replies. But a browser sends forms and texts without a preflight, so that any page
    could replace pictures on a server without keys, for which this is. Browsers say where a request comes from in
    Sec-Fetch-Site, if the server is at this machine or behind TLS.
    """

    def __init__(self, app: App, *, origins: Collection[str], refuse: Callable[[ServiceError], App]) -> None:
        self.app = app
        self.origins = origins
        self.refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["method"] not in READING:
            headers = Headers(scope=scope)
            is_listed = "*" in self.origins or headers.get("origin") in self.origins
            if headers.get("sec-fetch-site") == "cross-site" and not is_listed:
                error = OriginRefused("This site may not call. SAM2_CORS_ORIGINS lists the sites that may.")
                await self.refuse(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class SecurityHeadersMiddleware:
    """Tells browsers to trust the Content-Type of replies, and what a page may load.

    Headers that the app sets itself are kept.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                if headers.get("content-type", "").startswith("text/html"):
                    policy = DOCS_POLICY if scope["path"] == "/docs" else PAGE_POLICY
                    headers.setdefault("Content-Security-Policy", policy)
                    headers.setdefault("Referrer-Policy", "no-referrer")
                    headers.setdefault("X-Frame-Options", "DENY")
            await send(message)

        await self.app(scope, receive, send_with_headers)
