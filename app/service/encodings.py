"""Encode pictures to embeddings: each content once, however many requests wait for it.

Belongs to the event loop. Does not know about image names or which embeddings are stored.
"""

import asyncio
import copy
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, perf_counter
from typing import Any, TypeAlias

from app.codecs.deep import Stretch
from app.codecs.images import claimed_pixels, decode_image
from app.errors import Overloaded
from app.scheduling.batching import Batcher
from app.scheduling.deadlines import left_s
from app.scheduling.pace import Pace, has_become_late, is_late, too_late
from app.scheduling.shares import Shares, Turns, Workers
from app.service.picture_rates import PictureRates
from app.storage.claims import Claim
from app.storage.names import stretch_of
from app.telemetry.stages import StageTimes
from model.types import Embedding, Pixels

Source: TypeAlias = bytes | Callable[[], Pixels]
"""A picture file, or what decodes a frame of a video in a worker thread."""

DECODED_AHEAD = 8
"""Pictures of any size held as decoded pixels at a time, or being decoded. The rest waits as files."""

SMALL_PIXELS = 12_500_000
"""Up to here, as phones take them, more than DECODED_AHEAD may be held: one for each worker thread. A JPEG of 12
megapixels takes a worker some 110 ms, so eight at a time are 70 per second, and a large GPU encodes more."""

SMALL_BYTES = 2**30
"""Most memory for those beyond DECODED_AHEAD."""

DECODED_FOR_NEWCOMERS = 2
"""Additional places for clients that have none, so that a first picture need not wait for the others."""


@dataclass(frozen=True, slots=True, eq=False)
class _Caller:
    """A request that waits for an embedding."""

    due: float
    refusal: "asyncio.Future[Overloaded]"


@dataclass(slots=True, eq=False)
class _Encoding:
    """An embedding that is being made, and the requests that wait for it."""

    task: "asyncio.Task[Embedding]"
    share: str
    """The share of the first request."""
    waiting: list[_Caller] = field(default_factory=list)

    @property
    def callers(self) -> int:
        """The number of waiting requests."""
        return len(self.waiting)


class Encodings:
    """Decodes pictures in `threads` worker threads, a few ahead of the encoder, and has them encoded in batches of
    `batch`.

    A request is rejected on arrival, or later while it waits, if its embedding would come after its deadline at the
    recent pace. The exception is a request that finds no other picture on its way: it runs, and its time sets
    the pace for the next one.

    `check_ready` raises when the server stops. `put` gets each embedding before the waiting requests do.
    """

    def __init__(
        self,
        encoder: Batcher[Pixels, Embedding],
        workers: Workers,
        *,
        threads: int,
        batch: int,
        max_waiting: int,
        rates: PictureRates,
        max_megapixels: float,
        check_ready: Callable[[], object],
        put: Callable[[str, Embedding], None],
    ) -> None:
        self._encoder, self._workers = encoder, workers
        self._max_megapixels = max_megapixels
        self._check_ready, self._put = check_ready, put
        self._running: dict[str, _Encoding] = {}
        self._waiting_images = Shares(max_waiting)
        self._rates = rates
        self._counting: dict[str, asyncio.Future[None]] = {}
        more = max(0, min(threads - DECODED_AHEAD, SMALL_BYTES // (3 * SMALL_PIXELS)))
        self._decoded_ahead = Turns(DECODED_AHEAD + more, reserved=DECODED_FOR_NEWCOMERS)
        self._large_ahead = Turns(DECODED_AHEAD, reserved=DECODED_FOR_NEWCOMERS)
        self._batch = batch
        self._pace = Pace(batch)
        self._done = 0  # since the pace was measured
        self._measured_at = -math.inf

    def __len__(self) -> int:
        """The number of pictures that are not embedded yet."""
        return len(self._running)

    def __contains__(self, content: str) -> bool:
        """Whether this content is being encoded, or will be once it is counted in its client's rate."""
        return content in self._running or content in self._counting

    async def join(
        self, content: str, data: Source, times: StageTimes, share: str, *, claim: Claim | None
    ) -> Embedding:
        """Wait for the single encoding of this content. It is cancelled when the last waiting request goes away.

        Raises ImageNotFound as soon as the claim, if given, is deleted; Overloaded if the queue is full or too
        slow.
        """
        while (other := self._counting.get(content)) is not None:
            await asyncio.wait([other])
        encoding = self._running.get(content)
        if encoding is None:
            encoding = await self._begin(content, data, times, share)
        with self._waiting_for(content, encoding) as refusal:
            either: list[asyncio.Future[Any]] = [encoding.task, refusal, *([claim.deleted] if claim else [])]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if claim is not None:
            claim.check()
        if refusal.done():
            raise refusal.result()
        if (failure := encoding.task.exception()) is not None:
            # A copy for each caller, as in batching.py.
            raise copy.copy(failure) from failure.__cause__
        return encoding.task.result()

    async def _begin(self, content: str, data: Source, times: StageTimes, share: str) -> _Encoding:
        """Start an encoding, if the queue and the client's rate allow. Nobody else starts it meanwhile."""
        self._admit(share)
        self._counting[content] = is_counted = asyncio.get_running_loop().create_future()
        self._waiting_images.add(share, 1)
        try:
            await self._rates.take(share)
            encoding = _Encoding(asyncio.create_task(self._encode(content, data, times, share)), share)
            self._running[content] = encoding
        except BaseException:
            self._waiting_images.remove(share, 1)
            raise
        finally:
            del self._counting[content]
            is_counted.set_result(None)
        return encoding

    def _admit(self, share: str) -> None:
        now, waiting = monotonic(), self._waiting_images
        all_s = self._pace.seconds(waiting.used, at=now)
        if not waiting.admits(share, 1):
            held = f"{waiting.held(share)} of yours and {len(self._running)} of all"
            what = f"The queue of pictures is full: {held} wait (SAM2_MAX_WAITING_IMAGES). Try again later."
            raise Overloaded(what, retry_after_s=max(1, math.ceil(all_s)))
        if self._running:
            seconds = self._pace.seconds(waiting.turns(share, waiting.held(share) + 1), at=now)
            if is_late(seconds, left_s=left_s()):
                raise too_late("This picture", seconds, left_s=left_s(), all_s=all_s)
        else:
            self._done, self._measured_at = 0, now

    @contextmanager
    def _waiting_for(self, content: str, encoding: _Encoding) -> Iterator["asyncio.Future[Overloaded]"]:
        """Register a caller while the block runs. Yields a future that gets the error if the caller is rejected."""
        caller = _Caller(monotonic() + left_s(), asyncio.get_running_loop().create_future())
        encoding.waiting.append(caller)
        try:
            yield caller.refusal
        finally:
            encoding.waiting.remove(caller)
            if not encoding.waiting:
                is_done = encoding.task.done()
                encoding.task.cancel()  # also keeps asyncio from logging a failure that nobody retrieved
                del self._running[content]  # now, so that nobody joins a cancelled encoding
                self._waiting_images.remove(encoding.share, 1)
                if is_done:
                    self._measure(at=monotonic())

    def _measure(self, *, at: float) -> None:
        """Count one more as done, even if it failed. The pictures of one batch are done at the same moment."""
        self._done += 1
        if self._done == self._batch:
            self._pace.note(self._done, at - self._measured_at, at=at)
            self._done, self._measured_at = 0, at
            self._refuse_late(at=at)

    def _refuse_late(self, *, at: float) -> None:
        """Reject callers that cannot be in time at the pace just measured, except the last one (as in Batcher)."""
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

    async def _encode(self, content: str, data: Source, times: StageTimes, share: str) -> Embedding:
        async with self.pixels(data, stretch_of(content), times, share) as image:
            # The task has no deadline; each caller that waits for it has its own.
            ran = await self._encoder.submit(image, deadline_s=float("inf"), share=share)
        times.add_ran([ran])
        self._put(content, ran.result)
        return ran.result

    @asynccontextmanager
    async def pixels(
        self, data: Source, stretch: Stretch, times: StageTimes, share: str
    ) -> AsyncIterator[Pixels]:
        """Decode a picture, and hold one of the places for decoded pictures while the block runs."""
        max_pixels = int(self._max_megapixels * 1e6)
        waiting_since = perf_counter()
        async with AsyncExitStack() as stack:
            if callable(data) or (claimed_pixels(data) or math.inf) > SMALL_PIXELS:
                await stack.enter_async_context(self._large_ahead.turn(share))
            await stack.enter_async_context(self._decoded_ahead.turn(share))
            self._check_ready()  # the server may have begun to stop
            started = perf_counter()
            times.add("queue", started - waiting_since, ended_at=started)
            read = (
                data
                if callable(data)
                else partial(decode_image, data, max_pixels=max_pixels, stretch=stretch)
            )
            image = await self._workers.run(read, share=share)
            times.add("picture", perf_counter() - started)
            yield image

    async def encode_part(self, pixels: Pixels, times: StageTimes, share: str) -> Embedding:
        """Return the embedding of a part of a picture, which is not kept. See `count_pictures`.

        Whoever asks bounds how many wait. Raises Overloaded if the queue is too slow.
        """
        ran = await self._encoder.submit(pixels, deadline_s=left_s(), share=share)
        times.add_ran([ran])
        return ran.result

    async def count_pictures(self, share: str, count: int) -> None:
        """Count pictures that will be encoded, or none of them and raise RateLimited: the client sent too many."""
        await self._rates.take(share, count)
