"""Who calls: checks the key of every request, and names the tenant and the share that it counts for.

Closed unless said otherwise: what FREE and FREE_FOLDERS do not name needs a key. Knows nothing of pictures and
queues.
"""

import base64
import binascii
import ipaddress
from collections.abc import Callable, Collection
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from app.errors import ServiceError, Unauthorized
from app.middleware.access import ANYONE, App, Receive, Scope, Send
from app.middleware.keys import ApiKeys
from app.middleware.rates import InFlight

FREE = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
FREE_FOLDERS = ("/page/",)
"""Paths that need no key: supervisors have none, browsers that open a page send none, and pages hold no data."""
METRICS = "/metrics"
"""Free where SAM2_OPEN_METRICS says so."""

_HOW = "Send a key as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'."


def tenant_of(request: HTTPConnection) -> str:
    """Whose pictures a request may see: the name of its key; ANYONE on a server without keys."""
    tenant: str = request.scope["tenant"]
    return tenant


def share_of(request: HTTPConnection) -> str:
    """Whose share of queues and rates a request counts for: the name of its key, or its address without keys."""
    share: str = request.scope["share"]
    return share


class CallersMiddleware:
    """Refuses who has no valid key, or too many requests under way; all others get their tenant and share."""

    def __init__(
        self,
        app: App,
        *,
        keys: ApiKeys,
        in_flight: InFlight,
        free: Collection[str],
        refuse: Callable[[ServiceError], App],
    ) -> None:
        self.app = app
        self.keys = keys
        self.in_flight = in_flight
        self.free = free
        self.refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] in self.free or scope["path"].startswith(FREE_FOLDERS):
            scope["tenant"], scope["share"] = ANYONE, address_of(scope)
            await self.app(scope, receive, send)
            return
        try:
            scope["tenant"], scope["share"] = identify(scope, keys=self.keys, key=key_of(scope))
            with self.in_flight.request(scope["share"]):
                await self.app(scope, receive, send)
        except ServiceError as error:  # of these two: those of the app are answered within it
            await self.refuse(error)(scope, receive, send)


def identify(scope: Scope, *, keys: ApiKeys, key: str) -> tuple[str, str]:
    """Tenant and share of who brings this key. Raises Unauthorized."""
    if not keys:
        return ANYONE, address_of(scope)
    if not key:
        raise Unauthorized(f"This server asks for a key. {_HOW}")
    name = keys.owner(key)
    if name is None:
        raise Unauthorized("This key is not known here.")
    return name, name


def key_of(scope: Scope) -> str:
    """The key that a request brings, or "". Basic is for tools that know nothing else: its password counts."""
    headers = Headers(scope=scope)
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if key := headers.get("x-api-key", ""):
        return key.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            pass
    return ""


def address_of(scope: Scope) -> str:
    """The client's address; of IPv6 the network, of which one client has all addresses."""
    return _network_of((scope.get("client") or ("", 0))[0])


@lru_cache(maxsize=4096)
def _network_of(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a socket file has no addresses
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host
