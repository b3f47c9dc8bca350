"""Host names that this server answers to, so that no other site's page can reach it by DNS rebinding.

Such a page is served under a name that leads to its own server first, and to 127.0.0.1 later. The browser then
takes this server for the page's own, and lets the page read it. Only the Host header shows the difference. Does
not know about CORS: to the browser, the page calls its own site.
"""

import ipaddress
import socket
from collections.abc import Callable, Collection

from app.errors import Misdirected, ServiceError
from app.middleware.access import App, Receive, Scope, Send

PROBES = ("/healthz", "/readyz")
"""Supervisors ask for these by an address: Kubernetes by that of the pod. They hold no data."""
ANY = "*"
LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine itself."""


def allowed_hosts(setting: str, *, host: str) -> tuple[str, ...]:
    """The names that SAM2_ALLOWED_HOSTS gives; "auto" depends on the address `host` that the server listens on.

    Only this machine reaches a loopback address, under its own names. Other addresses, those of containers above
    all, have many names, which the server cannot know.
    """
    if setting.strip().lower() != "auto":
        return tuple(_name_of(part) for part in setting.split(",") if part.strip())
    if not is_loopback(host):
        return (ANY,)
    itself = f"[{host}]" if ":" in host else host.lower()  # 127.0.0.2, for example
    return LOCAL if itself in LOCAL else (*LOCAL, itself)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on this address or name, as the system understands it."""
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):  # nothing can listen on it
        return False
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def is_allowed(host: str, allowed: Collection[str]) -> bool:
    """Whether a Host header names one of the allowed hosts: "*", a name, or "*.example.org" for all names below it.

    Ports do not count.
    """
    name = _name_of(host)
    return any(
        pattern in (ANY, name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))
        for pattern in allowed
    )


def _name_of(host: str) -> str:
    """Return a host in small letters, without its port and the dot of the root."""
    name = host.strip().lower()
    if name.count(":") > 1 and not name.startswith("["):  # an IPv6 address as settings may have it
        return f"[{name}]"
    if not name.endswith("]"):  # the end of an IPv6 address without a port
        name = name.rpartition(":")[0] or name
    return name.rstrip(".")


class HostsMiddleware:
    """Refuses HTTP requests and WebSockets whose Host header is not allowed, with 421 and a word on the setting.

    But for PROBES.
    """

    def __init__(self, app: App, *, allowed: Collection[str], refuse: Callable[[ServiceError], App]) -> None:
        self.app = app
        self.allowed = allowed
        self.refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        is_checked = ANY not in self.allowed and scope.get("path") not in PROBES
        if is_checked and scope["type"] in ("http", "websocket"):
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            # Browsers always send one; HTTP/1.0 clients may send none.
            if len(hosts) > 1 or not all(is_allowed(host, self.allowed) for host in hosts):
                error = Misdirected(
                    f"This server does not answer to the host {', '.join(hosts)!r}. Call it as "
                    f"{', '.join(self.allowed)}, or add the name to SAM2_ALLOWED_HOSTS."
                )
                await self.refuse(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)
