"""Pictures on their way to an embedding: each content once, however many wait for it.

Belongs to the event loop. Knows nothing of names and of what is stored.
"""

import asyncio
import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from app.batching import Batcher
from app.errors import Overloaded
from app.images import decode_image
from app.rates import PicturesPerMinute
from app.shares import Shares, Turns, Workers
from app.stages import StageTimes
from app.store import Claim
from model.types import Embedding, Pixels

DECODED_AHEAD = 8
"""Pictures decoded to pixels at one time: enough to keep the encoder busy, while the rest waits as files."""

DECODED_FOR_NEWCOMERS = 2
"""More of them for who has none there, so that a first picture need not wait until one of the others is done."""


@dataclass(slots=True, eq=False)
class _Encoding:
    """An embedding in the making, and how many requests wait for it."""

    task: "asyncio.Task[Embedding]"
    share: str
    """Of whoever asked first."""
    callers: int = 0


class Encodings:
    """Decodes pictures in worker threads, a few ahead, and has them encoded.

    `check_ready` raises where the server stops; `put` is given each embedding before anyone who waits for it.
    """

    def __init__(
        self,
        encoder: Batcher[Pixels, Embedding],
        workers: Workers,
        *,
        max_waiting: int,
        max_per_minute: float,
        max_megapixels: float,
        check_ready: Callable[[], object],
        put: Callable[[str, Embedding], None],
    ) -> None:
        self._encoder, self._workers = encoder, workers
        self._max_megapixels = max_megapixels
        self._check_ready, self._put = check_ready, put
        self._running: dict[str, _Encoding] = {}
        self._waiting_images = Shares(max_waiting)
        self._pictures = PicturesPerMinute(max_per_minute)
        self._decoded_ahead = Turns(DECODED_AHEAD, reserved=DECODED_FOR_NEWCOMERS)

    def __len__(self) -> int:
        """Pictures not embedded yet."""
        return len(self._running)

    def __contains__(self, content: str) -> bool:
        """Whether this content is on its way."""
        return content in self._running

    async def join(
        self, content: str, data: bytes, times: StageTimes, share: str, *, claim: Claim | None
    ) -> Embedding:
        """Wait for the one encoding of this content; when the last who waits has gone, it is given up.

        Raises ImageNotFound as soon as the claim is deleted, if one is given.
        """
        encoding = self._running.get(content)
        if encoding is None:
            if not self._waiting_images.admits(share, 1):
                held = f"{self._waiting_images.held(share)} of yours and {len(self._running)} of all"
                what = f"The queue of pictures is full: {held} wait (SAM2_MAX_WAITING_IMAGES)."
                raise Overloaded(what, retry_after_s=5)
            self._pictures.take(share)
            encoding = _Encoding(asyncio.create_task(self._encode(content, data, times, share)), share)
            self._running[content] = encoding
            self._waiting_images.add(share, 1)
        encoding.callers += 1
        try:
            either: list[asyncio.Future[Any]] = [encoding.task, *([claim.deleted] if claim else [])]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            encoding.callers -= 1
            if encoding.callers == 0:
                encoding.task.cancel()  # also keeps asyncio from complaining of a failure that nobody hears
                del self._running[content]  # now, so that nobody joins what has been given up
                self._waiting_images.remove(encoding.share, 1)
        if claim is not None:
            claim.check()
        if (failure := encoding.task.exception()) is not None:
            # One exception for each caller, as in batching.py.
            raise copy.copy(failure) from failure.__cause__
        return encoding.task.result()

    async def _encode(self, content: str, data: bytes, times: StageTimes, share: str) -> Embedding:
        max_pixels = int(self._max_megapixels * 1e6)
        waiting_since = perf_counter()
        async with self._decoded_ahead.turn(share):
            self._check_ready()  # the server may have begun to stop
            started = perf_counter()
            image = await self._workers.run(partial(decode_image, data, max_pixels=max_pixels), share=share)
            times.add("picture", perf_counter() - started)
            # The deadline is that of each caller who waits for this task, not of the task.
            ran = await self._encoder.submit(image, deadline_s=float("inf"), share=share)
        times.add("queue", started - waiting_since, ended_at=started)
        times.add_ran([ran])
        self._put(content, ran.result)
        return ran.result
