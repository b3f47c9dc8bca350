"""The two operations: a picture becomes an embedding; an embedding and prompts become masks.

Everything here runs on the event loop. Slow work runs on the device thread or in the worker threads. Does not know
about HTTP and JSON.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from app.codecs.answers import Decoded, MaskOptions
from app.codecs.deep import Stretch
from app.codecs.logits import bytes_per_logit
from app.codecs.prompts import PromptRequest, check_number, check_whole, resolve_prompts
from app.errors import ImageIdConflict, ImageNotFound, NotReady, ServiceError, ShuttingDown
from app.limits import memory_limit_bytes
from app.scheduling.deadlines import left_s, within
from app.segmenter import Segmenter
from app.service.decodings import Job, shape_all
from app.service.digests import digest_of
from app.service.fetching import Fetching
from app.service.loading import cache_limits, load_video_half
from app.service.search import Searches
from app.service.tracks import Tracks
from app.service.videos import Videos
from app.service.wiring import wire
from app.settings import Settings
from app.storage.names import check_reserved, content_id, content_key
from app.storage.opening import CacheLimits, open_store
from app.storage.register_file import ImageName
from app.storage.store import EmbeddingStore
from app.telemetry.metrics import Metrics
from app.telemetry.stages import StageTimes
from model.errors import DeviceLost
from model.types import Embedding

T = TypeVar("T")

log = logging.getLogger(__name__)

_OFF_LOOP_POINTS = 1000
"""Checking fewer clicks takes less time than passing the job to a thread."""


@dataclass(frozen=True, slots=True)
class TakenIn:
    """The result of an upload, with its embedding at hand."""

    image_id: str
    embedding: Embedding
    cached: bool
    """Whether no encoder ran for this request."""


class SegmentationService:
    """Owns the device thread, the queues, the worker threads and the stored embeddings.

    `start` calls `load`, which builds the model, on the device thread.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, load: Callable[[], Segmenter]) -> None:
        self.settings = settings
        self.metrics = metrics
        self.failure: Exception | None = None
        """The reason why the model could not be loaded, once it is known."""
        self.store: EmbeddingStore  # these two exist once the model is loaded
        self.cache_limits: CacheLimits
        self._load = load
        self._segmenter: Segmenter | None = None
        self._draining = False
        self._deadline = partial(within, settings.deadline_s)
        machinery = wire(
            settings, metrics, ready=self.ready, loaded=lambda: self._segmenter, store=lambda: self.store
        )
        self._sharing, self._bucket = machinery.sharing, machinery.bucket
        self._device, self._watchdog = machinery.device, machinery.watchdog
        self._workers, self._encodings = machinery.workers, machinery.encodings
        self._encoder, self._decoder = machinery.encoder, machinery.decoder
        self._searcher = machinery.searcher
        self._fetching = Fetching(settings, store=lambda: self.store, find=self.find)
        self.searches = Searches(
            machinery,
            most_prompts=settings.batch_prompts,
            most_waiting=settings.max_waiting_prompts,
            most_pictures=settings.max_waiting_images,
        )
        self.videos = Videos(settings, metrics, machinery, check_ready=self.ready, store=lambda: self.store)
        self.tracks = Tracks(settings, metrics, machinery, service=self)
        self._drain_queues, self._disconnect = machinery.drain, machinery.disconnect

    def ready(self) -> Segmenter:
        """Return the model.

        Raises NotReady while it loads, after it failed to load, and while the device thread is dead or stuck;
        ShuttingDown while the server stops.
        """
        if self._draining:
            raise ShuttingDown()
        if self.failure is not None:
            raise NotReady(f"The model could not be loaded: {self.failure}", retry_after_s=60)
        if self._segmenter is None:
            raise NotReady("The model is still loading; /readyz says when it is ready.", retry_after_s=2)
        self._watchdog.check()
        return self._segmenter

    @property
    def names_problem(self) -> str:
        """Why names that servers share cannot be reached, in words; empty if they can, or are this server's."""
        return self._sharing.problem if self._sharing is not None else ""

    @property
    def is_loaded(self) -> bool:
        """Whether the model is loaded and warm."""
        return self._segmenter is not None

    async def start(self) -> None:
        """Start the device thread, load the model on it and warm it up. Stores an error in `failure`."""
        self._device.start()
        try:
            segmenter = await self._device.run(self._load)
            await self._device.run(partial(load_video_half, self.settings, segmenter))
            await self._device.run(segmenter.warm_up)
            memory_bytes = memory_limit_bytes()
            self.cache_limits = cache_limits(self.settings, segmenter, memory_bytes=memory_bytes)
            if self._sharing is not None:
                await self._sharing.open()
            self.store = await open_store(
                self.settings,
                segmenter,
                self.metrics,
                limits=self.cache_limits,
                adopt=partial(self._adopt, segmenter),
                bucket=self._bucket,
                sharing=self._sharing,
            )
            await self.videos.open()
            await self.tracks.states.open()
        except ServiceError:
            log.info("Stopped before the model was loaded.")
        except Exception as error:  # whatever it is: `ready` reports it, and the process ends
            log.critical("The model could not be loaded: %s", error, exc_info=log.isEnabledFor(logging.DEBUG))
            self.failure = error
        else:
            self._segmenter = segmenter
            self.metrics.describe(segmenter)
            if not self._draining:
                self._watchdog.start()
            log.info("Ready")

    @property
    def is_working(self) -> bool:
        """Whether a thread still works, after `close` too."""
        return self._workers.is_working or self._device.alive

    def drain(self) -> None:
        """Reject new and waiting requests. Running batches are finished."""
        self._draining = True
        self._drain_queues()

    async def close(self) -> None:
        """Drain, wait for the device for at most the deadline of a request, and end the threads."""
        self.drain()
        self._watchdog.stop()  # from here on the timeout below handles a device that hangs
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                await self._device.close()
        except TimeoutError:
            log.error("The device is still busy after %g s; stopping without it.", self.settings.deadline_s)
        if self._segmenter is not None:
            await self.tracks.states.close()
            await self.videos.close()
            await self.store.close()
        await self._disconnect()
        self._workers.close()

    async def take_in(
        self,
        data: bytes,
        *,
        tenant: str,
        image_id: str | None,
        replace: bool,
        times: StageTimes,
        share: str,
        stretch: Stretch = "range",
        needs_name: bool = True,
    ) -> TakenIn:
        """Store the embedding of an uploaded picture under its id, or under the SHA-256 of its bytes.

        `stretch` says how a picture of more than 8 bits is read. Read in another way, it is another picture.

        The picture counts towards the queue and the rate of `share`. Raises a ServiceError for a bad picture, a
        name that is taken or is deleted while the picture is embedded, a full queue, a client over its rate, or a
        missed deadline. If `needs_name` is false, a deleted name is no error: the embedding is returned, but not
        kept.
        """
        async with self._deadline():
            self.ready()  # admission comes before any work
            own_id = content_id(
                await digest_of(data, workers=self._workers, times=times, share=share), stretch
            )
            name = image_id or own_id
            check_reserved(name, own_id)
            content = content_key(own_id, tenant=tenant)
            with self.store.claim(name, tenant=tenant) as claim:
                await self.store.check_name(name, content, tenant=tenant, replace=replace)
                embedding = await self.store.find(content)
                outcome = "hit"
                if embedding is None:
                    outcome = "joined" if content in self._encodings else "miss"
                    until = claim if needs_name else None
                    embedding = await self._encodings.join(content, data, times, share, claim=until)
                self.metrics.cache_lookups.labels(outcome).inc()
                upload = data if self.settings.keep_uploads else None
                try:
                    await self.store.keep(claim, content, embedding, replace=replace, upload=upload)
                except ImageNotFound:
                    if needs_name:
                        raise
            return TakenIn(name, embedding, cached=outcome != "miss")

    def check_prompts(self, requests: Sequence[PromptRequest]) -> None:
        """Check prompts as far as possible without the picture. Raises InvalidPrompt."""
        check_number(len(requests), most=self.settings.max_prompts)
        check_whole(requests)

    async def decode(
        self,
        image: str | Embedding,
        requests: Sequence[PromptRequest],
        *,
        options: MaskOptions,
        tenant: str,
        times: StageTimes,
        share: str,
    ) -> Decoded:
        """Return the masks for every prompt on the image with that id, or on a given embedding, stored or not.

        Raises a ServiceError for an unknown image, a bad prompt, a full queue or a missed deadline.
        """
        segmenter = self.ready()
        held = self._fetching.held(image, tenant=tenant, times=times, share=share)
        async with self._deadline(), held as embedding:
            height, width = embedding.height, embedding.width
            check_number(len(requests), most=self.settings.max_prompts)
            resolve = partial(
                resolve_prompts,
                requests,
                height=height,
                width=width,
                mask_size=segmenter.mask_size,
                hands_out_logits=options.return_logits,
            )
            has_masks = any(request.mask_input is not None for request in requests)
            many = sum(len(request.point_coords) for request in requests) > _OFF_LOOP_POINTS
            prompts = await self._workers.run(resolve, share=share) if has_masks or many else resolve()
            logit_bytes = bytes_per_logit(segmenter.dtype_name)
            jobs = [Job(embedding, prompt, options, logit_bytes) for prompt in prompts]
            ran = await self._decoder.submit_all(jobs, deadline_s=left_s(), share=share)
            masks = await shape_all(jobs, ran, workers=self._workers, share=share, times=times)
            return Decoded(height, width, masks, segmenter.name)

    async def find(self, image_id: str, *, tenant: str, times: StageTimes, share: str) -> Embedding:
        """Return an image's embedding: at once if it is on the device, encoded again if only its upload was kept.

        Raises a ServiceError for an unknown image, a full queue or a missed deadline.
        """
        async with self._deadline():
            self.ready()
            name = await self.store.look_up(image_id, tenant=tenant)
            return await self.find_named(name, image_id, tenant=tenant, times=times, share=share)

    async def find_named(
        self, name: ImageName, image_id: str, *, tenant: str, times: StageTimes, share: str
    ) -> Embedding:
        """Return the embedding of what `name` was when it was looked up, as `find` does."""
        async with self._deadline():
            content = name.content
            if (embedding := await self.store.find_named(name)) is not None:
                return embedding
            if (upload := await self.store.find_upload(content)) is None:
                raise ImageNotFound.fallen_out(image_id)
            with self.store.claim(image_id, tenant=tenant) as claim:
                await self.store.look_up(image_id, tenant=tenant)  # it may have been deleted before the claim
                if (embedding := await self.store.find(content)) is not None:
                    return embedding  # made while its upload was read
                embedding = await self._encodings.join(content, upload, times, share, claim=claim)
                with suppress(ImageIdConflict):  # the name has another picture by now; this one was asked for
                    await self.store.keep(claim, content, embedding, replace=False, upload=None)
            return embedding

    def keeps(self, embedding_bytes: int) -> int:
        """Return how many embeddings of this size are kept before the first one is dropped."""
        limits = self.cache_limits
        disk_bytes = self.settings.disk_cache_mib * 2**20 if self.settings.keeps_files else 0
        return max(limits.device_bytes + limits.host_bytes, disk_bytes) // embedding_bytes

    async def delete(self, image_id: str, *, tenant: str) -> None:
        """Delete an image everywhere, even while it is being embedded."""
        async with self._deadline():
            self.ready()
            await self.store.delete(image_id, tenant=tenant)

    async def work(self, job: Callable[[], T], *, share: str) -> T:
        """Run a job in a worker thread, with the deadline of a request."""
        async with self._deadline():
            return await self._workers.run(job, share=share)

    async def _adopt(self, segmenter: Segmenter, embedding: Embedding) -> Embedding:
        try:
            return await self._device.run(partial(segmenter.adopt, embedding))
        except DeviceLost as error:
            raise self._device.give_up(error) from error
