"""The sockets that the server listens on, and in words why it cannot.

Does not know what is served there.
"""

import errno
import socket
from collections.abc import Sequence

_LISTEN_ADVICE: dict[int | None, str] = {
    errno.EADDRINUSE: "Stop what uses this port, or set another one.",
    errno.EACCES: "Set another port; those below 1024 need a privilege.",
}
_HOST_ADVICE = "SAM2_HOST must be an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all networks."

_WAITING = 2048
"""Connections that wait for the event loop; Uvicorn's number."""


class CannotListen(Exception):
    """The message says where the server cannot listen, why, and what to do."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        advice = _LISTEN_ADVICE.get(error.errno, _HOST_ADVICE)
        super().__init__(
            f"Cannot listen on SAM2_HOST={host}, SAM2_PORT={port}: {error.strerror or error}. {advice}"
        )


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of a host, all with one port.

    Addresses of a kind that this machine does not have, such as IPv6, are left out. Raises CannotListen if none is
    left, or if one cannot be bound for another reason.
    """
    try:
        return _bind(host, port)
    except OSError as error:
        raise CannotListen(host, port, error) from error
    except UnicodeError as error:  # a part of a name is empty or too long for any name server
        raise CannotListen(host, port, OSError("this is no name of a host")) from error


def listen(bound: Sequence[socket.socket]) -> None:
    """Begin to take connections. Raises CannotListen: two servers may have the same port until one of them does."""
    for each in bound:
        try:
            each.listen(_WAITING)
        except OSError as error:
            host, port = each.getsockname()[:2]
            raise CannotListen(host, port, error) from error


def _bind(host: str, port: int) -> list[socket.socket]:
    bound: list[socket.socket] = []
    missing: OSError | None = None
    addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in dict.fromkeys(addresses):
        chosen = bound[0].getsockname()[1] if bound else port  # if the port is 0, the first chooses one
        try:
            bound.append(_listener(family, (address[0], chosen, *address[2:])))
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                missing = error
                continue
            for each in bound:
                each.close()
            raise
    if missing is not None and not bound:
        raise missing
    return bound


def _listener(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener
