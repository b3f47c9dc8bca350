"""A simulated internet, for tests of pictures by URL.

Its hosts do not exist: `resolve` gives them public addresses, and `dial` connects these to a local server, with
certificates of a local authority.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpcore
import trustme

from app.routes.remote_pictures import RemotePictures
from tests.local_server import local_server, port_of

PUBLIC = "93.184.215.14"
HOST = "pictures.example"
URL = f"https://{HOST}/truck.png"


@dataclass
class Web:
    """A server with TLS, the requests it received, and a RemotePictures that uses it as the internet."""

    pictures: RemotePictures
    names: dict[str, list[list[str]]]
    """Addresses by host, one list for each lookup; the last list is used for all later ones."""
    replies: dict[str, bytes]
    """Whole replies, head and body, by path."""
    requests: list[bytes] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)

    async def fetch(self, url: str = URL, arrived: Callable[[int], None] = lambda _: None) -> bytes:
        """Fetch a URL with RemotePictures."""
        return await self.pictures.fetch(url, arrived=arrived)


def reply(body: bytes = b"", *, status: str = "200 OK", **headers: str) -> bytes:
    """Return an HTTP reply; its default headers are its length and the type of a picture."""
    head = {"content-type": "image/png", "content-length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items() if value)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Return a reply that redirects to `location`."""
    return reply(status=status, location=location)


@asynccontextmanager
async def web(
    authority: trustme.CA, *, certificate_of: str = HOST, max_bytes: int = 10_000, deadline_s: float = 20.0
) -> AsyncIterator[Web]:
    """Run the simulated internet."""
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(certificate_of, "*.example.org").configure_cert(server_tls)
    client_tls = ssl.create_default_context()
    authority.configure_trust(client_tls)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        here.requests.append(request)
        path = request.split(b" ")[1].decode()
        writer.write(here.replies.get(path, reply(status="404 Not Found")))
        if path != "/silent":
            writer.close()

    async def look_up(host: str) -> list[str]:
        here.looked_up.append(host)
        known = here.names.get(host, [[]])
        return known.pop(0) if len(known) > 1 else known[0]

    class Dial(httpcore.AsyncNetworkBackend):
        def __init__(self) -> None:
            self._real = httpcore.AnyIOBackend()

        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore.AsyncNetworkStream:
            here.dialled.append((host, port))
            if host != PUBLIC:
                raise httpcore.ConnectError("nobody there")
            return await self._real.connect_tcp("127.0.0.1", listening)

    async with local_server(serve, tls=server_tls) as server:
        listening = port_of(server)
        pictures = RemotePictures(
            allowed=True,
            max_bytes=max_bytes,
            deadline_s=deadline_s,
            resolve=look_up,
            dial=Dial(),
            tls=client_tls,
        )
        here = Web(pictures, {HOST: [[PUBLIC]]}, {"/truck.png": reply(b"a picture")})
        yield here
