"""Reads request bodies within limits of size, time and memory.

Does not know what a body holds.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from app.errors import (
    BadRequest,
    BodyTooSlow,
    ImageTooLarge,
    Overloaded,
    ServiceError,
    ShuttingDown,
    UnsupportedEncoding,
)
from app.scheduling.shares import Shares

FORM_OVERHEAD = 64 * 1024
"""Bytes that a form may have in addition to its picture."""
_LEAST_BYTES_PER_S = 1024
"""Least average speed of a body, after the first `patience_s`: 1 MB may take a quarter of an hour."""
_JOINED_AT_ONCE = 1 << 20


@dataclass(slots=True)
class BodyBudget:
    """Memory budget for the bodies of all requests.

    Bytes are counted when they arrive, not when they are announced. A client that sends nothing holds nothing.
    One that stops in the middle, or sends a byte now and then, holds what it sent for `patience_s` seconds.
    """

    shares: Shares
    patience_s: float
    _waiting: set[asyncio.Timeout] = field(default_factory=set, init=False)
    _is_draining: bool = field(default=False, init=False)

    @property
    def used_bytes(self) -> int:
        """Bytes held at this moment."""
        return self.shares.used

    def drain(self) -> None:
        """Refuse what has not arrived yet: the server stops, and would refuse the whole body too."""
        self._is_draining = True
        for each in self._waiting:
            if not each.expired():
                each.reschedule(asyncio.get_running_loop().time())

    @contextmanager
    def holding(self, share: str) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts bytes as they arrive. All of them are released when the block ends.

        It raises Overloaded if `share` would hold more than it may.
        """
        held = 0

        def arrived(size: int) -> None:
            nonlocal held
            if not self.shares.admits(share, size):
                raise Overloaded(
                    "Too many uploads are in memory (SAM2_MAX_BODIES_MIB). Try again later.",
                    retry_after_s=2,
                )
            self.shares.add(share, size)
            held += size

        try:
            yield arrived
        finally:
            if held:
                self.shares.remove(share, held)

    @asynccontextmanager
    async def read(
        self,
        request: Request,
        *,
        max_bytes: int,
        limit: str,
        share: str,
        of: type[ServiceError] = ImageTooLarge,
    ) -> AsyncIterator[bytes]:
        """Yield the body of a request. Its bytes count until the block ends.

        Raises UnsupportedEncoding for a compressed body, `of` beyond `max_bytes` (at once if
        Content-Length says so), Overloaded if the budget is spent, BadRequest if the client disconnects,
        BodyTooSlow if it stops in the middle or is too slow, and ShuttingDown after `drain`.
        """
        _check_encoding(request.headers)
        thing = "picture" if of is ImageTooLarge else "video"
        too_large = of(f"The body is larger than {limit}. Send a smaller {thing} file.")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > max_bytes:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        with self.holding(share) as arrived:
            async for chunk in self._arriving(request):
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                arrived(len(chunk))
                chunks.append(chunk)
            yield await join(chunks, size)

    async def _arriving(self, request: Request) -> AsyncIterator[bytes]:
        stream = request.stream()
        loop = asyncio.get_running_loop()
        due = loop.time() + self.patience_s
        try:
            while True:
                end = loop.time() if self._is_draining else min(loop.time() + self.patience_s, due)
                async with asyncio.timeout_at(end) as waiting:
                    self._waiting.add(waiting)
                    try:
                        chunk = await anext(stream, None)
                    finally:
                        self._waiting.discard(waiting)
                if chunk is None:
                    return
                due += len(chunk) / _LEAST_BYTES_PER_S
                yield chunk
        except ClientDisconnect as error:
            raise BadRequest("The connection closed before the whole body had arrived.") from error
        except TimeoutError as error:
            if self._is_draining:
                raise ShuttingDown() from error
            raise BodyTooSlow(
                f"The body arrived too slowly: nothing for {self.patience_s:g} s, or less than "
                f"{_LEAST_BYTES_PER_S} bytes per second."
            ) from error


async def join(chunks: list[bytes], size: int) -> bytes:
    """Return all chunks, of `size` bytes together, as one, and release them.

    Joining tens of megabytes takes tens of milliseconds, most of it without the interpreter lock: so in a thread.
    """
    return _join(chunks) if size < _JOINED_AT_ONCE else await asyncio.to_thread(_join, chunks)


def _join(chunks: list[bytes]) -> bytes:
    body = b"".join(chunks)
    chunks.clear()
    return body


def _check_encoding(headers: Headers) -> None:
    for header, plain in (("content-encoding", "identity"), ("transfer-encoding", "chunked")):
        for coding in ",".join(headers.getlist(header)).split(","):
            if coding.strip().lower() not in ("", plain):
                raise UnsupportedEncoding(
                    f"{header.title()} {coding.strip()[:40]!r} is not supported. Send the body as it is, not "
                    "compressed or otherwise encoded."
                )


def max_body_bytes(max_upload_mib: int) -> int:
    """Return the size of the largest body for a picture of the limit: base64 takes four bytes for three."""
    return max_upload_mib * 2**20 * 4 // 3 + FORM_OVERHEAD
