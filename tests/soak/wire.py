"""Minimal HTTP clients, so cheap that thousands of requests a second measure the server and not the clients.

Each has one keep-alive connection, uses asyncio streams, and parses only what it needs. Also has the requests:
uploads and clicks.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

PATIENCE_S = 60.0
"""No request of a check takes longer, unless the server is broken."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, and how long it took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    def json(self) -> dict[str, object]:
        """Return the body's JSON."""
        content: dict[str, object] = json.loads(self.body)
        return content


class Client:
    """One connection. It is opened again if the server has closed it. Raises OSError if no server listens."""

    def __init__(self, port: int, *, key: str = "") -> None:
        self._port = port
        self._key = f"X-API-Key: {key}\r\n" if key else ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", *, kind: str = "application/json"
    ) -> Reply:
        """Send a request and read its reply. Raises OSError if the connection breaks or the reply is late."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{self._key}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        started = perf_counter()
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self._streams is not None and self._streams[0].at_eof():
                    self.close()  # the server closed the idle connection
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                writer.write(head.encode() + body)
                status, headers = await _head(reader)
                content = await reader.readexactly(int(headers.get("content-length", 0)))
        except BaseException as failure:
            self.close()
            if isinstance(failure, (EOFError, TimeoutError)):
                raise ConnectionError(f"{method} {path}: {failure!r}") from failure
            raise
        if headers.get("connection") == "close":
            self.close()
        return Reply(status, headers, content, perf_counter() - started)

    async def embed(self, data: bytes, image_id: str = "") -> Reply:
        """Upload a picture."""
        query = f"?image_id={image_id}" if image_id else ""
        return await self.ask("POST", f"/embed{query}", data, kind="application/octet-stream")

    async def click(self, image_id: str, x: float = 30, y: float = 20) -> Reply:
        """Click once."""
        body = {"image_id": image_id, "point_coords": [[x, y]], "point_labels": [1]}
        return await self.ask("POST", "/decode", json.dumps(body).encode())

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@asynccontextmanager
async def client(port: int, *, key: str = "") -> AsyncIterator[Client]:
    """Return a client that is closed when the block ends."""
    one = Client(port, key=key)
    try:
        yield one
    finally:
        one.close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this fraction of the values lies; NaN if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
