"""The two stories: a picture becomes an embedding, an embedding and prompts become masks.

Knows nothing of HTTP and JSON. Everything here runs on the event loop; what takes time runs on the device thread or
in the worker threads.
"""

import asyncio
import copy
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TypeVar

from app.answers import MaskAnswer, MaskFormat, answer
from app.batching import Batcher, Ran
from app.device import DeviceThread
from app.errors import (
    DeadlineExceeded,
    InvalidPrompt,
    NotReady,
    Overloaded,
    ServiceError,
    ShuttingDown,
    ValidationFailed,
)
from app.images import decode_image
from app.metrics import Metrics
from app.prompts import PromptRequest, resolve_prompts
from app.room import encode_with_room, with_room
from app.segmenter import Segmenter
from app.settings import Settings
from app.store import EmbeddingStore
from model.types import Embedding, Pixels, Prediction, Prompt

T = TypeVar("T")

log = logging.getLogger(__name__)

DECODED_AHEAD = 8
"""Pictures decoded to pixels at one time: enough to keep the encoder busy, while the rest waits as files."""

_OFF_LOOP_BYTES = 256 * 1024
"""Hashing less than this takes less time than handing it to a thread."""

_OFF_LOOP_POINTS = 1000
"""The same for checking clicks."""


@dataclass(slots=True)
class StageTimes:
    """Seconds by stage of one request, in the order in which they ended."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, seconds: float) -> None:
        """Record a stage; a later stage of the same name adds to it."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def add_ran(self, ran: Sequence[Ran[T]]) -> None:
        """Record the queue and the device of a request whose items may have run in several batches."""
        slowest = max(ran, key=lambda r: r.queue_s + r.device_s)
        self.add("queue", slowest.queue_s)
        self.add("device", slowest.device_s)


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
    callers: int = 0


class SegmentationService:
    """Owns the device thread, the queues, the worker threads and the stored embeddings.

    `load` builds the model; it runs on the device thread after `start`.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, load: Callable[[], Segmenter]) -> None:
        self.settings = settings
        self.metrics = metrics
        self.store = EmbeddingStore(capacity_bytes=settings.cache_mib * 2**20, on_evict=metrics.evictions.inc)
        self.failure: Exception | None = None
        """Why the model could not be loaded, once that is known."""
        self._load = load
        self._segmenter: Segmenter | None = None
        self._draining = False
        self._encodings: dict[str, _Encoding] = {}
        self._decoded_ahead = asyncio.Semaphore(DECODED_AHEAD)
        self._workers = ThreadPoolExecutor(settings.workers, thread_name_prefix="worker")
        self._device = DeviceThread()
        self._decoder: Batcher[tuple[Embedding, Prompt], Prediction] = Batcher(
            lambda jobs: with_room(lambda: self.ready().decode(jobs)),
            name="decode",
            device=self._device,
            priority=0,
            max_batch=settings.batch_prompts,
            max_waiting=settings.max_waiting_prompts,
            on_batch=partial(metrics.observe_batch, "decode"),
        )
        self._encoder: Batcher[Pixels, Embedding] = Batcher(
            lambda images: with_room(lambda: self.ready().encode(images, between=self._device.overtake)),
            name="encode",
            device=self._device,
            priority=1,
            max_batch=settings.batch_images,
            max_waiting=settings.max_waiting_images,
            on_batch=partial(metrics.observe_batch, "encode"),
        )
        metrics.watch("sam2_cache_bytes", "Bytes of embeddings in memory.", lambda: self.store.used_bytes)
        metrics.watch("sam2_cache_images", "Embeddings in memory.", lambda: len(self.store))
        metrics.watch("sam2_waiting_prompts", "Prompts in the queue.", lambda: self._decoder.waiting)
        metrics.watch("sam2_waiting_images", "Pictures not embedded yet.", lambda: len(self._encodings))

    def ready(self) -> Segmenter:
        """The model. Raises NotReady while it loads and ShuttingDown while the server stops."""
        if self._draining:
            raise ShuttingDown()
        if self.failure is not None:
            raise NotReady(f"The model could not be loaded: {self.failure}", retry_after_s=60)
        if self._segmenter is None:
            raise NotReady("The model is still loading; /readyz tells when it is done.", retry_after_s=2)
        if not self._device.alive:
            raise NotReady("The device thread broke; the server must be restarted.", retry_after_s=60)
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
            log.info("Ready")

    def drain(self) -> None:
        """Refuse what comes from now on, and answer all who wait; what runs is finished."""
        self._draining = True
        self._decoder.drain()
        self._encoder.drain()

    async def close(self) -> None:
        """Drain, wait for the device, but not longer than anyone would, and end the threads."""
        self.drain()
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                await self._device.close()
        except TimeoutError:
            log.error("The device is still busy after %g s; stopping without it.", self.settings.deadline_s)
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def embed(self, data: bytes, *, image_id: str | None, replace: bool, times: StageTimes) -> Embedded:
        """Store the embedding of an uploaded picture under its id, or under the SHA-256 of its bytes.

        Raises a ServiceError: for a bad picture, a name that is taken, a full queue, a missed deadline.
        """
        async with self._deadline():
            self.ready()  # admission comes before any work
            content = await self._content_id(data, times)
            name = image_id or content
            self._check_reserved(name, content)
            self.store.check_name(name, content, replace=replace)
            embedding = await self.store.find(content)
            outcome = "hit"
            if embedding is None:
                outcome = "joined" if content in self._encodings else "miss"
                embedding = await self._join_encoding(content, data, times)
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
            prompts = await self._work(resolve) if has_masks or many else resolve()
            jobs = [(embedding, prompt) for prompt in prompts]
            ran = await self._decoder.submit_all(jobs, deadline_s=self.settings.deadline_s)
            times.add_ran(ran)
            started = perf_counter()
            logit_bytes = (4 if segmenter.dtype_name == "float32" else 2) if return_logits else None
            shape = partial(
                answer, height=height, width=width, mask_format=mask_format, logit_bytes=logit_bytes
            )
            predictions = await self._work(lambda: [shape(r.result) for r in ran])
            times.add("masks", perf_counter() - started)
            return Decoded(height, width, predictions)

    async def work(self, job: Callable[[], T]) -> T:
        """Run a job in a worker thread, within the deadline of a request."""
        async with self._deadline():
            return await self._work(job)

    def _work(self, job: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._workers, job)

    async def _content_id(self, data: bytes, times: StageTimes) -> str:
        started = perf_counter()
        if len(data) < _OFF_LOOP_BYTES:
            content = hashlib.sha256(data).hexdigest()
        else:
            content = await self._work(lambda: hashlib.sha256(data).hexdigest())
        times.add("hash", perf_counter() - started)
        return content

    def _check_reserved(self, name: str, content: str) -> None:
        """Keep a client's name from standing where another picture's content id belongs."""
        if len(name) == 64 and name != content and all(c in "0123456789abcdef" for c in name):
            what = f"{name!r} looks like a SHA-256, and is not that of this picture; use another name"
            raise ValidationFailed(f"image_id: {what}.", details=[{"where": "image_id", "what": what}])

    async def _join_encoding(self, content: str, data: bytes, times: StageTimes) -> Embedding:
        """Wait for the one encoding of this content; when the last who waits has gone, it is given up."""
        encoding = self._encodings.get(content)
        if encoding is None:
            if len(self._encodings) >= self.settings.max_waiting_images:
                raise Overloaded(
                    f"{len(self._encodings)} pictures are waiting to be embedded, which is the limit "
                    "(SAM2_MAX_WAITING_IMAGES). Nothing was started.",
                    retry_after_s=5,
                )
            encoding = _Encoding(asyncio.create_task(self._encode(content, data, times)))
            self._encodings[content] = encoding
        encoding.callers += 1
        try:
            await asyncio.wait([encoding.task])
        finally:
            encoding.callers -= 1
            if encoding.callers == 0:
                encoding.task.cancel()  # also keeps asyncio from complaining of a failure that nobody hears
                del self._encodings[content]  # now, so that nobody joins what has been given up
        if (failure := encoding.task.exception()) is not None:
            # One exception for each caller, as in batching.py.
            raise copy.copy(failure) from failure.__cause__
        return encoding.task.result()

    async def _encode(self, content: str, data: bytes, times: StageTimes) -> Embedding:
        max_pixels = int(self.settings.max_image_megapixels * 1e6)
        waiting_since = perf_counter()
        async with self._decoded_ahead:
            self.ready()  # the server may have begun to stop
            started = perf_counter()
            image = await self._work(partial(decode_image, data, max_pixels=max_pixels))
            times.add("picture", perf_counter() - started)
            # The deadline is that of each caller who waits for this task, not of the task.
            ran = await encode_with_room(image, self._encoder, self.store)
        times.add("queue", started - waiting_since)
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
