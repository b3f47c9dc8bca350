"""Replies of a line of JSON at a time, each sent when it is there, and a last one: the result, or the error.

A reader that is gone ends the work, and one that sleeps too. Does not know what is done.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress

from starlette.requests import Request
from starlette.responses import Response

from app.errors import ServiceError
from app.middleware.access import Receive, Scope, Send
from app.middleware.connection import ClientGone, while_connected
from app.routes.state import refusal_of

MEDIA_TYPE = "application/x-ndjson"
_PIECE_BYTES = 2**16
"""Longer lines are sent in pieces of so much, each with the whole patience: who reads 10 MB on a slow connection
does not sleep. A copy of all that would also hold the event loop for 20 ms."""


class LineReply(Response):
    """Sends lines, then what `last` returns, or the error in its place. `held` is closed at the end."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        request: Request,
        first: str | None,
        lines: AsyncGenerator[str, None],
        held: AsyncExitStack,
        *,
        last: Callable[[], Awaitable[bytes]],
        patience_s: float,
    ) -> None:
        # Proxies are told to pass each line on.
        super().__init__(headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._request, self._first, self._lines, self._held = request, first, lines, held
        self._last, self._patience_s = last, patience_s

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Serve as an ASGI application."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        try:
            await self._send(send, start)
            await while_connected(receive, self._send_lines(send))
        except ClientGone:
            pass  # nobody reads it
        finally:
            await self._held.aclose()

    async def _send_lines(self, send: Send) -> None:
        async def line(content: bytes, *, is_last: bool = False) -> None:
            at = 0
            while len(content) - at > _PIECE_BYTES:
                piece = content[at : at + _PIECE_BYTES]
                await self._send(send, {"type": "http.response.body", "body": piece, "more_body": True})
                at += _PIECE_BYTES
            body = {"type": "http.response.body", "body": content[at:] + b"\n", "more_body": not is_last}
            await self._send(send, body)

        try:
            if self._first is not None:
                await line(self._first.encode())
            async for each in self._lines:
                await line(each.encode())
            last = await self._last()
        except ClientGone:
            raise
        except ServiceError as error:
            last = bytes(refusal_of(self._request, error).body)
        except Exception:  # a bug, which access.py logs; the connection is cut off then
            bug = ServiceError("Internal error; see the server's log for this request id.")
            with suppress(ClientGone):
                await line(bytes(refusal_of(self._request, bug).body))
            raise
        await line(last, is_last=True)

    async def _send(self, send: Send, message: dict[str, object]) -> None:
        """Raises ClientGone. Errors of the connection must not be taken for those of the work, which is logged."""
        try:
            # A reader that sleeps must not hold the work for ever.
            async with asyncio.timeout(self._patience_s):
                await send(message)
        except OSError as error:
            raise ClientGone from error


async def begin_lines(
    request: Request,
    lines: AsyncGenerator[str, None],
    held: AsyncExitStack,
    *,
    last: Callable[[], Awaitable[bytes]],
    patience_s: float,
) -> LineReply:
    """Wait for the first line, and return the reply. Raises what the work raises until then."""
    held.push_async_callback(lines.aclose)
    try:
        first = await while_connected(request.receive, _first_of(lines))
    except BaseException:
        await held.aclose()
        raise
    return LineReply(request, first, lines, held, last=last, patience_s=patience_s)


async def _first_of(lines: AsyncGenerator[str, None]) -> str | None:
    return await anext(lines, None)
