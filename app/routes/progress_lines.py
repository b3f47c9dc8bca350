"""How far a long work is, as lines of JSON for clients that accept them. Does not know what the work is."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TypeAlias

from starlette.requests import Request

from app.routes.accepted import weight_of, weights
from app.routes.line_replies import MEDIA_TYPE
from app.service.search import Report

Work: TypeAlias = Callable[[Report], Coroutine[None, None, bytes]]
"""Is called with what it reports its steps to, and returns its result."""


def wants_lines(request: Request) -> bool:
    """Whether the client names lines of JSON among what it accepts, and likes plain JSON no better."""
    accepted = weights(request.headers, "accept")
    lines = accepted.get(MEDIA_TYPE, 0.0)
    return lines > 0 and lines >= weight_of("application/json", accepted)


class Steps:
    """The newest step of a work in a task of its own. A slow reader skips steps, so none of them wait for it."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._newest: str | None = None
        self._changed = asyncio.Event()
        self._running: asyncio.Task[bytes]

    async def lines(self) -> AsyncGenerator[str, None]:
        """Do the work, and yield its steps. Closing ends it. Raises what it raises before its first step."""
        self._running = asyncio.create_task(self._work(self._report))
        self._running.add_done_callback(lambda _: self._changed.set())
        try:
            await self._changed.wait()
            if self._running.done():
                self._running.result()
            while (step := await self._step()) is not None:
                yield step
        finally:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def result(self) -> bytes:
        """Return what the work returned, after its last step. Raises what it raised."""
        return await self._running

    def _report(self, progress: float, found: int) -> None:
        self._newest = json.dumps({"progress": round(progress, 4), "found": found})
        self._changed.set()

    async def _step(self) -> str | None:
        """Return the next step; None if the work is done."""
        while self._newest is None and not self._running.done():
            self._changed.clear()
            await self._changed.wait()
        newest, self._newest = self._newest, None
        return newest
