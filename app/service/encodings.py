"""Pictures on their way to an embedding: each content once, however many wait for it.

Belongs to the event loop. Knows nothing of names and of what is stored.
"""

import asyncio
import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, perf_counter
from typing import Any

from app.codecs.images import decode_image
from app.errors import Overloaded
from app.middleware.rates import PicturesPerMinute
from app.scheduling.batching import Batcher
from app.scheduling.deadlines import left_s
from app.scheduling.pace import Pace, has_become_late, is_late, too_late
from app.scheduling.shares import Shares, Turns, Workers
from app.storage.store import Claim
from app.telemetry.stages import StageTimes
from model.types import Embedding, Pixels

DECODED_AHEAD = 8
"""Pictures decoded to pixels at one time: enough to keep the encoder busy, while the rest waits as files."""

DECODED_FOR_NEWCOMERS = 2
"""More of them for who has none there, so that a first picture need not wait until one of the others is done."""


@dataclass(frozen=True, slots=True, eq=False)
class _Caller:
    """A request that waits for an embedding."""

    due: float
    refusal: "asyncio.Future[Overloaded]"


@dataclass(slots=True, eq=False)
class _Encoding:
    """An embedding in the making, and who waits for it."""

    task: "asyncio.Task[Embedding]"
    share: str
    """Of whoever asked first."""
    waiting: list[_Caller] = field(default_factory=list)

    @property
    def callers(self) -> int:
        """How many wait."""
        return len(self.waiting)


class Encodings:
    """Decodes pictures in worker threads, a few ahead, and has them encoded, `batch` at one time.

    Who comes is refused, and who waits later on, where the deadline would come before the embedding at the recent
    pace; but not who finds no picture on its way, whose time is the next one's pace.

    `check_ready` raises where the server stops; `put` is given each embedding before anyone who waits for it.
    """

    def __init__(
        self,
        encoder: Batcher[Pixels, Embedding],
        workers: Workers,
        *,
        batch: int,
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
        self._batch = batch
        self._pace = Pace(batch)
        self._done = 0  # since the pace was measured
        self._measured_at = -math.inf

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

        Raises ImageNotFound as soon as the claim is deleted, if one is given, and Overloaded where the queue is
        full or too slow.
        """
        encoding = self._running.get(content)
        if encoding is None:
            self._admit(share)
            encoding = _Encoding(asyncio.create_task(self._encode(content, data, times, share)), share)
            self._running[content] = encoding
            self._waiting_images.add(share, 1)
        with self._waiting_for(content, encoding) as refusal:
            either: list[asyncio.Future[Any]] = [encoding.task, refusal, *([claim.deleted] if claim else [])]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if claim is not None:
            claim.check()
        if refusal.done():
            raise refusal.result()
        if (failure := encoding.task.exception()) is not None:
            # One exception for each caller, as in batching.py.
            raise copy.copy(failure) from failure.__cause__
        return encoding.task.result()

    def _admit(self, share: str) -> None:
        now, waiting = monotonic(), self._waiting_images
        all_s = self._pace.seconds(waiting.used, at=now)
        if not waiting.admits(share, 1):
            held = f"{waiting.held(share)} of yours and {len(self._running)} of all"
            what = f"The queue of pictures is full: {held} wait (SAM2_MAX_WAITING_IMAGES)."
            raise Overloaded(what, retry_after_s=max(1, math.ceil(all_s)))
        if self._running:
            seconds = self._pace.seconds(waiting.turns(share, waiting.held(share) + 1), at=now)
            if is_late(seconds, left_s=left_s()):
                raise too_late("This picture", seconds, left_s=left_s(), all_s=all_s)
        else:
            self._done, self._measured_at = 0, now
        self._pictures.take(share)

    @contextmanager
    def _waiting_for(self, content: str, encoding: _Encoding) -> Iterator["asyncio.Future[Overloaded]"]:
        """Count a caller while the block runs, which is over when the refusal comes."""
        caller = _Caller(monotonic() + left_s(), asyncio.get_running_loop().create_future())
        encoding.waiting.append(caller)
        try:
            yield caller.refusal
        finally:
            encoding.waiting.remove(caller)
            if not encoding.waiting:
                is_done = encoding.task.done()
                encoding.task.cancel()  # also keeps asyncio from complaining of a failure that nobody hears
                del self._running[content]  # now, so that nobody joins what has been given up
                self._waiting_images.remove(encoding.share, 1)
                if is_done:
                    self._measure(at=monotonic())

    def _measure(self, *, at: float) -> None:
        """Note that one more is done, whether or not it could be; those of one batch are done in one moment."""
        self._done += 1
        if self._done == self._batch:
            self._pace.note(self._done, at - self._measured_at, at=at)
            self._done, self._measured_at = 0, at
            self._refuse_late(at=at)

    def _refuse_late(self, *, at: float) -> None:
        """Refuse who cannot be in time any more at the pace just measured, but as in Batcher not the last one."""
        unrefused = len(self._running)
        all_s = self._pace.seconds(unrefused, at=at)
        places = Counter[str]()
        for encoding in self._running.values():
            if unrefused == 1:
                return
            share = encoding.share
            places[share] += 1
            seconds = self._pace.seconds(self._waiting_images.turns(share, places[share]), at=at)
            late = [one for one in encoding.waiting if has_become_late(seconds, left_s=one.due - at)]
            if encoding.task.done():
                continue
            for caller in late:
                if not caller.refusal.done():
                    refusal = too_late("This picture", seconds, left_s=caller.due - at, all_s=all_s)
                    caller.refusal.set_result(refusal)
            if len(late) == encoding.callers:
                places[share] -= 1
                unrefused -= 1

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
