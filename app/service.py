"""The two stories: a picture becomes an embedding, an embedding and prompts become masks.

Knows nothing of HTTP and JSON. Everything here runs on the event loop; what takes time runs on the device thread or
in the worker threads.
"""

import asyncio
import copy
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TypeVar

from app.answers import MaskAnswer, MaskFormat, answer
from app.batching import Batcher
from app.device import DeviceThread
from app.errors import (
    DeadlineExceeded,
    InvalidPrompt,
    NotReady,
    Overloaded,
    ServiceError,
    ShuttingDown,
)
from app.images import decode_image
from app.memory import WithinMemory
from app.metrics import Metrics
from app.names import check_reserved
from app.prompts import PromptRequest, resolve_prompts
from app.rates import PicturesPerMinute
from app.segmenter import Segmenter
from app.settings import Settings
from app.shares import Shares, Turns, Workers
from app.stages import StageTimes
from app.store import EmbeddingStore
from app.watchdog import Watchdog
from model.types import Embedding, Pixels, Prediction, Prompt

T = TypeVar("T")

log = logging.getLogger(__name__)

DECODED_AHEAD = 8
"""Pictures decoded to pixels at one time: enough to keep the encoder busy, while the rest waits as files."""

DECODED_FOR_NEWCOMERS = 2
"""More of them for who has none there, so that a first picture need not wait until one of the others is done."""

_OFF_LOOP_BYTES = 256 * 1024
"""Hashing less than this takes less time than handing it to a thread."""

_OFF_LOOP_POINTS = 1000
"""The same for checking clicks."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """What became of an upload."""

    image_id: str
    height: int
    width: int
    cached: bool
    """Whether no encoder ran for this request."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Masks for every prompt of a request, in order."""

    height: int
    width: int
    predictions: list[list[MaskAnswer]]


@dataclass(slots=True, eq=False)
class _Encoding:
    """An embedding in the making, and how many requests wait for it."""

    task: "asyncio.Task[Embedding]"
    share: str
    """Of whoever asked first."""
    callers: int = 0


class SegmentationService:
    """Owns the device thread, the queues, the worker threads and the stored embeddings.

    `load` builds the model; it runs on the device thread after `start`.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, load: Callable[[], Segmenter]) -> None:
        self.settings = settings
        self.metrics = metrics
        self.store = EmbeddingStore(
            capacity_bytes=settings.cache_mib * 2**20,
            on_hit=metrics.cache_hits.labels("device").inc,
            on_evict=metrics.evictions.labels("device").inc,
        )
        self.failure: Exception | None = None
        """Why the model could not be loaded, once that is known."""
        self._load = load
        self._segmenter: Segmenter | None = None
        self._draining = False
        self._encodings: dict[str, _Encoding] = {}
        self._waiting_images = Shares(settings.max_waiting_images)
        self._pictures = PicturesPerMinute(settings.rate_pictures_per_minute)
        self._decoded_ahead = Turns(DECODED_AHEAD, reserved=DECODED_FOR_NEWCOMERS)
        self._workers = Workers(settings.workers)
        self._device = DeviceThread()
        self._watchdog = Watchdog(self._device, limit_s=settings.watchdog_s)
        # Called on the device thread; the store belongs to the event loop.
        shed = partial(self._device.ask_loop, self.store.shed)
        self._decoder: Batcher[tuple[Embedding, Prompt], Prediction] = Batcher(
            WithinMemory[tuple[Embedding, Prompt], Prediction](
                lambda jobs: self.ready().decode(jobs),
                shed=shed,
                on_full=metrics.out_of_memory.labels("decode").inc,
            ),
            name="decode",
            device=self._device,
            priority=0,
            max_batch=settings.batch_prompts,
            max_waiting=settings.max_waiting_prompts,
            on_batch=partial(metrics.observe_batch, "decode"),
        )
        self._encoder: Batcher[Pixels, Embedding] = Batcher(
            WithinMemory[Pixels, Embedding](
                lambda images: self.ready().encode(images, between=self._device.overtake),
                shed=shed,
                on_full=metrics.out_of_memory.labels("encode").inc,
            ),
            name="encode",
            device=self._device,
            priority=1,
            max_batch=settings.batch_images,
            max_waiting=settings.max_waiting_images,
            on_batch=partial(metrics.observe_batch, "encode"),
        )
        metrics.cache_bytes.labels("device").set_function(lambda: self.store.used_bytes)
        metrics.cache_images.labels("device").set_function(lambda: len(self.store))
        metrics.waiting_prompts.set_function(lambda: self._decoder.waiting)
        metrics.waiting_images.set_function(lambda: len(self._encodings))
        metrics.watch_readiness(self.ready)

    def ready(self) -> Segmenter:
        """The model. Raises NotReady while it loads and ShuttingDown while the server stops."""
        if self._draining:
            raise ShuttingDown()
        if self.failure is not None:
            raise NotReady(f"The model could not be loaded: {self.failure}", retry_after_s=60)
        if self._segmenter is None:
            raise NotReady("The model is still loading; /readyz tells when it is done.", retry_after_s=2)
        self._watchdog.check()
        return self._segmenter

    async def start(self) -> None:
        """Start the device thread, load the model on it and warm it up. A failure ends up in `failure`."""
        self._device.start()
        try:
            segmenter = await self._device.run(self._load)
            await self._device.run(segmenter.warm_up)
        except ServiceError:
            log.info("Stopped before the model was loaded.")
        except Exception as error:
            log.critical("The model could not be loaded: %s", error, exc_info=log.isEnabledFor(logging.DEBUG))
            self.failure = error
        else:
            self._segmenter = segmenter
            self.metrics.describe(segmenter)
            if not self._draining:
                self._watchdog.start()
            log.info("Ready")

    def drain(self) -> None:
        """Refuse what comes from now on, and answer all who wait; what runs is finished."""
        self._draining = True
        self._decoder.drain()
        self._encoder.drain()

    async def close(self) -> None:
        """Drain, wait for the device, but not longer than anyone would, and end the threads."""
        self.drain()
        self._watchdog.stop()  # from here on the deadline below is what ends a device that hangs
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                await self._device.close()
        except TimeoutError:
            log.error("The device is still busy after %g s; stopping without it.", self.settings.deadline_s)
        self._workers.close()

    async def embed(
        self, data: bytes, *, image_id: str | None, replace: bool, times: StageTimes, share: str
    ) -> Embedded:
        """Store the embedding of an uploaded picture under its id, or under the SHA-256 of its bytes.

        `share` is whose queue and rate it counts for. Raises a ServiceError: for a bad picture, a name that is
        taken, a full queue, a client over its rate, a missed deadline.
        """
        async with self._deadline():
            self.ready()  # admission comes before any work
            content = await self._content_id(data, times, share)
            name = image_id or content
            check_reserved(name, content)
            self.store.check_name(name, content, replace=replace)
            embedding = await self.store.find(content)
            outcome = "hit"
            if embedding is None:
                outcome = "joined" if content in self._encodings else "miss"
                embedding = await self._join_encoding(content, data, times, share)
            self.metrics.cache_lookups.labels(outcome).inc()
            if not await self.store.give_name(name, content, replace=replace):
                # Evicted between the encoder and here: keep it, for this caller was told nothing yet.
                await self.store.put(content, embedding)
                await self.store.give_name(name, content, replace=replace)
            return Embedded(name, embedding.height, embedding.width, cached=outcome != "miss")

    async def decode(
        self,
        image_id: str,
        requests: Sequence[PromptRequest],
        *,
        mask_format: MaskFormat,
        return_logits: bool,
        times: StageTimes,
        share: str,
    ) -> Decoded:
        """Masks for every prompt. Raises a ServiceError: no such image, a bad prompt, a full queue, too late."""
        async with self._deadline():
            segmenter = self.ready()
            embedding = await self.store.get(image_id)
            height, width = embedding.height, embedding.width
            if len(requests) > self.settings.max_prompts:
                raise InvalidPrompt(
                    f"{len(requests)} prompts in one request; the limit is {self.settings.max_prompts} "
                    "(SAM2_MAX_PROMPTS). Send them in several requests."
                )
            resolve = partial(
                resolve_prompts,
                requests,
                height=height,
                width=width,
                mask_size=segmenter.mask_size,
                hands_out_logits=return_logits,
            )
            has_masks = any(request.mask_input is not None for request in requests)
            many = sum(len(request.point_coords) for request in requests) > _OFF_LOOP_POINTS
            prompts = await self._workers.run(resolve, share=share) if has_masks or many else resolve()
            jobs = [(embedding, prompt) for prompt in prompts]
            ran = await self._decoder.submit_all(jobs, deadline_s=self.settings.deadline_s, share=share)
            times.add_ran(ran)
            started = perf_counter()
            logit_bytes = (4 if segmenter.dtype_name == "float32" else 2) if return_logits else None
            shape = partial(
                answer, height=height, width=width, mask_format=mask_format, logit_bytes=logit_bytes
            )
            predictions = await self._workers.run(lambda: [shape(r.result) for r in ran], share=share)
            times.add("masks", perf_counter() - started)
            return Decoded(height, width, predictions)

    async def work(self, job: Callable[[], T], *, share: str) -> T:
        """Run a job in a worker thread, within the deadline of a request."""
        async with self._deadline():
            return await self._workers.run(job, share=share)

    async def _content_id(self, data: bytes, times: StageTimes, share: str) -> str:
        started = perf_counter()
        if len(data) < _OFF_LOOP_BYTES:
            content = hashlib.sha256(data).hexdigest()
        else:
            content = await self._workers.run(lambda: hashlib.sha256(data).hexdigest(), share=share)
        times.add("hash", perf_counter() - started)
        return content

    async def _join_encoding(self, content: str, data: bytes, times: StageTimes, share: str) -> Embedding:
        """Wait for the one encoding of this content; when the last who waits has gone, it is given up."""
        encoding = self._encodings.get(content)
        if encoding is None:
            if not self._waiting_images.admits(share, 1):
                held = f"{self._waiting_images.held(share)} of yours and {len(self._encodings)} of all"
                what = f"The queue of pictures is full: {held} wait (SAM2_MAX_WAITING_IMAGES)."
                raise Overloaded(what, retry_after_s=5)
            self._pictures.take(share)
            encoding = _Encoding(asyncio.create_task(self._encode(content, data, times, share)), share)
            self._encodings[content] = encoding
            self._waiting_images.add(share, 1)
        encoding.callers += 1
        try:
            await asyncio.wait([encoding.task])
        finally:
            encoding.callers -= 1
            if encoding.callers == 0:
                encoding.task.cancel()  # also keeps asyncio from complaining of a failure that nobody hears
                del self._encodings[content]  # now, so that nobody joins what has been given up
                self._waiting_images.remove(encoding.share, 1)
        if (failure := encoding.task.exception()) is not None:
            # One exception for each caller, as in batching.py.
            raise copy.copy(failure) from failure.__cause__
        return encoding.task.result()

    async def _encode(self, content: str, data: bytes, times: StageTimes, share: str) -> Embedding:
        max_pixels = int(self.settings.max_image_megapixels * 1e6)
        waiting_since = perf_counter()
        async with self._decoded_ahead.turn(share):
            self.ready()  # the server may have begun to stop
            started = perf_counter()
            image = await self._workers.run(partial(decode_image, data, max_pixels=max_pixels), share=share)
            times.add("picture", perf_counter() - started)
            # The deadline is that of each caller who waits for this task, not of the task.
            ran = await self._encoder.submit(image, deadline_s=float("inf"), share=share)
        times.add("queue", started - waiting_since, ended_at=started)
        times.add_ran([ran])
        await self.store.put(content, ran.result)
        return ran.result

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"No answer within {self.settings.deadline_s:g} s (SAM2_DEADLINE_S); the server is busy."
            ) from error
