"""Fetches pictures by URL, from public addresses of the internet only.

Each connection resolves its host once, checks every address found, and connects to one of exactly these
addresses. So a name that resolves differently a moment later changes nothing. The environment is not used: no
proxy, no password file, no cookies. Does not know about pictures.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import httpcore
import httpx

from app.errors import (
    DeadlineExceeded,
    Detail,
    ImageTooLarge,
    InvalidImage,
    UnsupportedMediaType,
    ValidationFailed,
)
from app.routes.body_budget import join

PORT = 443
MAX_REDIRECTS = 5

Resolve: TypeAlias = Callable[[str], Awaitable[list[str]]]
"""Return a host's addresses; empty if it has none or does not exist."""

_REDIRECTS = (301, 302, 303, 307, 308)
# The types that storage services use for unknown files.
_BINARY = ("application/octet-stream", "binary/octet-stream", "")

_HEADERS = [(b"Accept", b"image/*"), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"sam2-service")]

# Addresses that are reachable only from inside a network, or lead to such an address in disguise. ipaddress has a
# list, too, but it differs between versions of Python.
_NOT_PUBLIC_IPV4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/3",
            "168.63.129.16/32",  # Azure's own services, including its metadata
        ),
    )
)  # fmt: skip
# Excludes IPv4 in disguise (::ffff:, 64:ff9b:), and fc, fe, ff.
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_IPV6 = tuple(
    # protocol assignments, including Teredo; documentation, two ranges; 6to4, which carries an IPv4 address
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20", "2002::/16"))
)


def is_public(address: str) -> bool:
    """Whether an address is public and names one machine."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not any(ip in network for network in _NOT_PUBLIC_IPV4)
    if ip.scope_id is not None or ip not in _PUBLIC_IPV6:
        return False
    return ip.is_global and not any(ip in network for network in _NOT_PUBLIC_IPV6)


async def resolve(host: str) -> list[str]:
    """Return a host's addresses from the system's resolver."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a label of the name may be too long
        return []
    return [str(entry[4][0]) for entry in found]


class _NotPublic(Exception):
    """The host has no address, or one that is not public. The client does not learn which."""


class _PublicOnly(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only. `dial` opens the connections."""

    def __init__(self, resolve: Resolve, dial: httpcore.AsyncNetworkBackend) -> None:
        self._resolve = resolve
        self._dial = dial

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of a host's addresses that answers."""
        addresses = await self._resolve(host)
        if not addresses or not all(map(is_public, addresses)):
            raise _NotPublic
        failure: Exception = _NotPublic()
        for address in addresses:
            try:
                return await self._dial.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class RemotePictures:
    """Fetches files of at most `max_bytes`, each within `deadline_s` from the first connection to the last byte.

    If `allowed` is false, it refuses every URL. `resolve`, `dial` and `tls` default to the system's.
    """

    def __init__(
        self,
        *,
        allowed: bool,
        max_bytes: int,
        deadline_s: float,
        resolve: Resolve = resolve,
        dial: httpcore.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = allowed
        self._max_bytes = max_bytes
        self._deadline_s = deadline_s
        self._network = _PublicOnly(resolve, dial or httpcore.AnyIOBackend())
        self._tls = tls or (httpx.create_ssl_context(trust_env=False) if allowed else None)

    @property
    def allowed(self) -> bool:
        """Whether any URL may be fetched."""
        return self._allowed

    async def fetch(
        self, url: str, *, arrived: Callable[[int], None], authorization: str | None = None
    ) -> bytes:
        """Return the file at a URL.

        `arrived` is called with the size of each chunk in bytes when it arrives; if it raises, the fetch ends.
        `authorization` is sent to the URL's own host only, not to one that it redirects to.

        Raises ValidationFailed for a URL that may not be fetched, InvalidImage if the fetch fails,
        ImageTooLarge, UnsupportedMediaType if the reply is declared as something else, and DeadlineExceeded.
        """
        if not self._allowed:
            raise _refused("this server does not fetch pictures (SAM2_ALLOW_URLS); send the file itself")
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._follow(_checked(url), arrived, authorization)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"The picture's URL sent no complete answer within {self._deadline_s:g} s (SAM2_DEADLINE_S)."
            ) from error
        except _NotPublic:
            raise _refused("its host has no address, or one that is not public") from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise InvalidImage(
                "The picture's URL cannot be fetched: no connection, a certificate that is not valid for its host, "
                "or an answer that breaks off."
            ) from error

    async def _follow(
        self, url: httpx.URL, arrived: Callable[[int], None], authorization: str | None
    ) -> bytes:
        entitled = url.raw_host
        for _ in range(1 + MAX_REDIRECTS):
            headers = list(_HEADERS)
            if authorization is not None and url.raw_host == entitled:
                headers.append((b"Authorization", authorization.encode("ascii", "replace")))
            # A new pool each time, because a pooled connection's address was checked earlier.
            async with (
                httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=self._network) as pool,
                pool.stream("GET", _request_url(url), headers=headers) as response,
            ):
                head = {name.lower(): value.decode("latin-1") for name, value in response.headers}
                if response.status not in _REDIRECTS:
                    self._check_head(response.status, head)
                    return await self._read(response, arrived)
            url = _checked(head.get(b"location", ""), base=url)
        raise _refused(f"it redirects more than {MAX_REDIRECTS} times")

    def _check_head(self, status: int, headers: dict[bytes, str]) -> None:
        if status != 200:
            raise InvalidImage(f"The picture's URL answers with status {status}.")
        media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if not media_type.startswith("image/") and media_type not in _BINARY:
            raise UnsupportedMediaType("The Content-Type of the URL's answer is not that of a picture.")
        if headers.get(b"content-encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("The URL's answer is compressed, which was not requested.")
        announced = headers.get(b"content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise self._too_large()

    async def _read(self, response: httpcore.Response, arrived: Callable[[int], None]) -> bytes:
        return await read_within(
            response.aiter_stream(), self._max_bytes, arrived=arrived, too_large=self._too_large
        )

    def _too_large(self) -> ImageTooLarge:
        return ImageTooLarge(
            f"The file at the URL is larger than {self._max_bytes // 2**20} MiB (SAM2_MAX_UPLOAD_MIB)."
        )


async def read_within(
    stream: AsyncIterable[bytes],
    max_bytes: int,
    *,
    arrived: Callable[[int], None],
    too_large: Callable[[], ImageTooLarge],
) -> bytes:
    """Return a stream as bytes. `arrived` gets the size of each chunk. Raises `too_large()` beyond `max_bytes`."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > max_bytes:
            raise too_large()
        arrived(len(chunk))
        chunks.append(chunk)
    return await join(chunks, size)


def _checked(text: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """Return the URL if it may be fetched. Raises ValidationFailed."""
    where = "the URL that it redirects to" if base else "it"
    try:
        url = base.join(text) if base and text else httpx.URL(text)
        port = url.port
    except (httpx.InvalidURL, ValueError) as error:
        raise _refused(f"{where} is not a URL") from error
    if url.scheme != "https" or not url.host:
        raise _refused(f"{where} does not begin with https://")
    if url.userinfo:
        raise _refused(f"{where} holds a user name or password, which are never sent")
    if port not in (None, PORT):
        raise _refused(f"{where} names a port other than {PORT}")
    return url


def _request_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=b"https", host=url.raw_host, port=PORT, target=url.raw_path)


def _refused(what: str) -> ValidationFailed:
    details: list[Detail] = [{"where": "url", "what": what}]
    return ValidationFailed(f"url: {what}.", details=details)
