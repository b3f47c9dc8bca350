"""Replies that tell how far a long work is: a line of JSON for each step, and the result or an error last.

The work ends when the client is gone. Does not know what the work is.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import Response

from app.errors import ServiceError
from app.middleware.access import Receive, Scope, Send
from app.middleware.connection import ClientGone, while_connected
from app.routes.state import refusal_of

MEDIA_TYPE = "application/x-ndjson"


def wants_lines(request: Request) -> bool:
    """Whether the client accepts lines of JSON."""
    accepted = ",".join(request.headers.getlist("accept")).split(",")
    return any(_media_type(each) == MEDIA_TYPE and not _is_refused(each) for each in accepted)


class Steps:
    """The newest step of a work in a task of its own. A slow reader skips steps, so none of them wait for it."""

    def __init__(self) -> None:
        self._newest: str | None = None
        self._changed = asyncio.Event()
        self._work: asyncio.Task[str]

    def report(self, progress: float, found: int) -> None:
        """Tell how far the work is, 0..1."""
        self._newest = json.dumps({"progress": round(progress, 4), "found": found})
        self._changed.set()

    async def begin(self, work: Coroutine[None, None, str]) -> None:
        """Start the work, and return at its first step or its end. Raises what it raises until then."""
        self._work = asyncio.create_task(work)
        self._work.add_done_callback(lambda _: self._changed.set())
        try:
            await self._changed.wait()
            if self._work.done():
                self._work.result()
        except BaseException:
            await self.end()
            raise

    async def step(self) -> str | None:
        """Return the next step; None if the work is done."""
        while self._newest is None and not self._work.done():
            self._changed.clear()
            await self._changed.wait()
        newest, self._newest = self._newest, None
        return newest

    async def result(self) -> str:
        """Return what the work returned. Raises what it raised."""
        return await self._work

    async def end(self) -> None:
        """Stop the work, if it is not done."""
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)


class ProgressLines(Response):
    """Sends steps, then the result. `held` is closed at the end."""

    media_type = MEDIA_TYPE

    def __init__(self, request: Request, steps: Steps, held: AsyncExitStack) -> None:
        super().__init__(
            headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
        )  # proxies, pass it on
        del self.headers["content-length"]
        self._request, self._steps, self._held = request, steps, held

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Serve as an ASGI application."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        try:
            await send(start)
            await while_connected(receive, self._send_lines(send))
        except (ClientGone, OSError):
            pass  # nobody reads it
        finally:
            await self._steps.end()
            await self._held.aclose()

    async def _send_lines(self, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
        async def line(content: bytes, *, is_last: bool = False) -> None:
            await send({"type": "http.response.body", "body": content + b"\n", "more_body": not is_last})

        while (step := await self._steps.step()) is not None:
            await line(step.encode())
        try:
            content = (await self._steps.result()).encode()
        except ServiceError as error:
            content = bytes(refusal_of(self._request, error).body)
        except Exception:  # a bug, which access.py logs; the connection is cut off then
            bug = ServiceError("Internal error; see the server's log for this request id.")
            await line(bytes(refusal_of(self._request, bug).body))
            raise
        await line(content, is_last=True)


def _media_type(accepted: str) -> str:
    return accepted.partition(";")[0].strip().lower()


def _is_refused(accepted: str) -> bool:
    parameters: Sequence[str] = accepted.replace(" ", "").lower().split(";")[1:]
    return any(each in ("q=0", "q=0.0", "q=0.00", "q=0.000") for each in parameters)
