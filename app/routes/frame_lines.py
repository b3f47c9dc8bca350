"""Replies of a line of JSON for each frame, written when the frame is done.

A slow reader slows the work, and one that is gone ends it. Does not know what is done.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing

from starlette.requests import Request
from starlette.responses import Response

from app.errors import ServiceError
from app.middleware.access import Receive, Scope, Send
from app.middleware.connection import ClientGone, while_connected
from app.routes.progress_lines import MEDIA_TYPE
from app.routes.state import refusal_of

DONE = b'{"done":true}'


class FrameLines(Response):
    """Sends lines, then that all is done, or the error that ended the work. `held` is closed at the end."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        request: Request,
        first: str,
        lines: AsyncGenerator[str, None],
        held: AsyncExitStack,
        *,
        patience_s: float,
    ) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._request, self._first, self._lines, self._held = request, first, lines, held
        self._patience_s = patience_s

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Serve as an ASGI application."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        try:
            async with aclosing(self._lines):
                await send(start)
                await while_connected(receive, self._send_lines(send))
        except (ClientGone, OSError):
            pass  # nobody reads it
        finally:
            await self._held.aclose()

    async def _send_lines(self, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
        async def line(content: bytes, *, is_last: bool = False) -> None:
            # A reader that sleeps must not hold the work for ever.
            async with asyncio.timeout(self._patience_s):
                await send({"type": "http.response.body", "body": content + b"\n", "more_body": not is_last})

        try:
            await line(self._first.encode())
            async for each in self._lines:
                await line(each.encode())
        except TimeoutError as error:
            raise ClientGone from error
        except ServiceError as error:
            await line(bytes(refusal_of(self._request, error).body), is_last=True)
        except Exception as error:  # a bug, which access.py logs; the connection is cut off then
            if not isinstance(error, (ClientGone, OSError)):
                bug = ServiceError("Internal error; see the server's log for this request id.")
                await line(bytes(refusal_of(self._request, bug).body))
            raise
        else:
            await line(DONE, is_last=True)


async def begin_lines(
    request: Request, lines: AsyncGenerator[str, None], held: AsyncExitStack, *, patience_s: float
) -> FrameLines:
    """Wait for the first line, and return the reply. Raises what the work raises until then."""
    try:
        first = await while_connected(request.receive, _first_of(lines))
    except BaseException:
        await lines.aclose()
        await held.aclose()
        raise
    return FrameLines(request, first, lines, held, patience_s=patience_s)


async def _first_of(lines: AsyncIterator[str]) -> str:
    return await anext(lines)
