"""Checks the API key of every request, and sets its tenant and its share.

Every path needs a key unless FREE or FREE_FOLDERS lists it. Does not know about pictures and queues.
"""

import ipaddress
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from app.codecs.base64_text import decode_base64
from app.errors import ServiceError, Unauthorized
from app.middleware.access import ANYONE, App, Receive, Scope, Send
from app.middleware.keys import ApiKeys
from app.middleware.rates import InFlight

FREE = frozenset({"/", "/client.js", "/healthz", "/readyz", "/docs", "/openapi.json"})
FREE_FOLDERS = ("/client/", "/docs/", "/page/")
"""Paths that need no key to be read: supervisors have none, browsers send none to open a page, and pages hold no
data. POST needs one: a door may have the same path."""
METRICS = "/metrics"
"""Needs no key to be read if SAM2_OPEN_METRICS is set."""
READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""

_HOW = "Send a key as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'."


def tenant_of(request: HTTPConnection) -> str:
    """Return the owner of the pictures that a request may see: the name of its key, or ANYONE without keys."""
    tenant: str = request.scope["tenant"]
    return tenant


def share_of(request: HTTPConnection) -> str:
    """Return whose share of queues and rates a request uses: its key's name, or its address without keys."""
    share: str = request.scope["share"]
    return share


class CallersMiddleware:
    """Rejects requests without a valid key or beyond the limit in flight. Gives the others a tenant and a share."""

    def __init__(
        self,
        app: App,
        *,
        keys: ApiKeys,
        in_flight: InFlight,
        free: Collection[str],
        free_to_read: Collection[str],
        key_of: Callable[[Scope], str],
        refuse: Callable[[ServiceError], App],
    ) -> None:
        self.app = app
        self.keys = keys
        self.in_flight = in_flight
        self.free = free
        self.free_to_read = free_to_read
        self.key_of = key_of
        self.refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._is_free(scope["path"], scope["method"]):
            scope["tenant"], scope["share"] = ANYONE, address_of(scope)
            await self.app(scope, receive, send)
            return
        try:
            scope["tenant"], scope["share"] = identify(scope, keys=self.keys, key=self.key_of(scope))
            with self.in_flight.request(scope["share"]):
                await self.app(scope, receive, send)
        except ServiceError as error:  # from the two lines above; the app answers its own errors
            await self.refuse(error)(scope, receive, send)

    def _is_free(self, path: str, method: str) -> bool:
        may_be_read = path in self.free_to_read or path.startswith(FREE_FOLDERS)
        return path in self.free or (method in READING and may_be_read)


def identify(scope: Scope, *, keys: ApiKeys, key: str) -> tuple[str, str]:
    """Return tenant and share of the client with this key. Raises Unauthorized."""
    if not keys:
        return ANYONE, address_of(scope)
    if not key:
        raise Unauthorized(f"This server requires an API key. {_HOW}")
    name = keys.owner(key)
    if name is None:
        raise Unauthorized("This API key is not valid.")
    return name, name


def key_of(scope: Scope) -> str:
    """Return the key that a request carries in its headers, or ""."""
    return sent_as_key(scope) or password_of(scope)


def sent_as_key(scope: Scope) -> str:
    """Return what a request sends in a header of keys, or ""."""
    headers = Headers(scope=scope)
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return _as_sent(credentials)
    return _as_sent(headers.get("x-api-key", ""))


def password_of(scope: Scope) -> str:
    """Return the password of Basic, or "". For tools that can send a key in no other way.

    It may be another server's: of a proxy in front, for example. So a key that is sent as one goes before it.
    """
    scheme, _, credentials = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        with suppress(ValueError):  # not base64
            return _as_sent(decode_base64(credentials).decode("latin-1").partition(":")[2])
    return ""


def _as_sent(value: str) -> str:
    """Return a value without spaces around it, as its client wrote it: UTF-8, or Latin-1 as browsers do."""
    try:
        return value.encode("latin-1").decode().strip()
    except UnicodeDecodeError:
        return value.strip()


def address_of(scope: Scope) -> str:
    """Return the client's address. For IPv6, return its /64 network, because one client has all addresses of it."""
    return _network_of((scope.get("client") or ("", 0))[0])


@lru_cache(maxsize=4096)
def _network_of(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # not an IP address: clients of a socket file have none
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:  # ::ffff:192.0.2.7, of a proxy that listens on both kinds at once
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
