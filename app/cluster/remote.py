"""The service in a server without a device of its own, a Front: each request goes to the Device of its picture.

A picture's key is its tenant and id, so clicks meet the Device that embedded it. Another one has it from the folder
that all share, later. Does not know the engine.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar, cast

from app.cluster.asking import Asking
from app.cluster.calls import FrameStep
from app.cluster.devices import Devices
from app.cluster.keys import of_image
from app.cluster.remote_tracks import RemoteTracks
from app.cluster.remote_videos import RemoteVideos
from app.cluster.watch import Watch, figures_of
from app.codecs.answers import Decoded, MaskOptions
from app.codecs.deep import Stretch
from app.codecs.prompts import PromptRequest
from app.errors import NotReady, ShuttingDown
from app.scheduling.deadlines import within
from app.scheduling.shares import Workers
from app.service.digests import digest_of
from app.service.found_masks import Criteria, Everything
from app.service.search import DEADLINE_SETTING, Report
from app.service.segmentation import (
    DeviceState,
    Embedded,
    EmbeddingDtype,
    EmbeddingFormat,
    Exported,
    ModelCard,
    NewPicture,
)
from app.settings import Settings
from app.storage.names import content_id
from app.storage.opening import CacheLimits
from app.storage.store import ImageRecord
from app.telemetry.cluster_metrics import ClusterMetrics, merged
from app.telemetry.metrics import Metrics
from app.telemetry.stages import StageTimes

T = TypeVar("T")

log = logging.getLogger(__name__)


class RemoteSegmentation:
    """A Segmentation. `connect` returns the Devices once they run; it may take minutes."""

    def __init__(
        self, settings: Settings, metrics: Metrics, *, connect: Callable[[], Awaitable[Devices]]
    ) -> None:
        self.metrics = metrics
        self.failure: Exception | None = None
        self._connect = connect
        self._devices: Devices
        self._workers = Workers(settings.workers)
        self._figures = ClusterMetrics(metrics.registry)
        self._watch = Watch(self._figures, settings)
        self._asking: Asking
        self._draining = False
        self._watching: asyncio.Task[None] | None = None
        self.videos = RemoteVideos(self._ask, self._workers, deadline=partial(within, settings.deadline_s))
        self.tracks = RemoteTracks(self._ask, self._follow, self._watch)
        metrics.watch_readiness(self.ready)
        metrics.watch_names(lambda: not self.names_problem)

    @property
    def settings(self) -> Settings:
        """Those of this server, but for what counts at the Devices: that is as one of them has it."""
        return self._watch.settings

    @property
    def cache_limits(self) -> CacheLimits:
        """Those of one Device."""
        return self._watch.limits

    @property
    def names_problem(self) -> str:
        """Why a Device cannot reach the names that servers share, at the last look."""
        return next((state.names_problem for state in self._watch.states if state.names_problem), "")

    @property
    def is_loaded(self) -> bool:
        """Whether a Device has been ready."""
        return self._watch.has_seen_one

    @property
    def is_working(self) -> bool:
        """Whether a worker thread of this process still works."""
        return self._workers.is_working

    def ready(self) -> ModelCard:
        """Return the model of the Devices. Raises NotReady if none has been ready lately, and ShuttingDown."""
        if self._draining:
            raise ShuttingDown()
        if self.failure is not None:
            raise NotReady(f"The devices could not be started: {self.failure}", retry_after_s=60)
        return self._watch.model()

    async def start(self) -> None:
        """Connect, and look at the Devices from time to time. Stores an error in `failure`."""
        try:
            self._devices = await self._connect()
        except Exception as error:  # whatever it is: `ready` reports it, and the process ends
            log.critical(
                "The devices could not be started: %s", error, exc_info=log.isEnabledFor(logging.DEBUG)
            )
            self.failure = error
            return
        self._asking = Asking(self._devices, self._figures)
        self._watching = asyncio.create_task(self._watch.keep_looking(self._devices))

    def drain(self) -> None:
        """Reject new requests. Those at a Device are answered."""
        self._draining = True
        if self._watching is not None:
            self._devices.drain()

    async def close(self) -> None:
        """Drain, and let go of the Devices."""
        self.drain()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            await self._devices.close()
        self._workers.close()

    async def embed(
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
    ) -> Embedded:
        """Store the embedding of a picture."""
        name = image_id or await self._own_id(data, stretch, times, share)
        embedded = await self._ask(
            of_image(name, tenant),
            "embed",
            times,
            data=data,
            tenant=tenant,
            image_id=image_id,
            replace=replace,
            share=share,
            stretch=stretch,
            needs_name=needs_name,
        )
        return cast(Embedded, embedded)

    async def recall(self, image_id: str, *, tenant: str, times: StageTimes, share: str) -> Embedded:
        """Return a stored picture, embedded again if only its upload was kept."""
        found = await self._ask(
            of_image(image_id, tenant), "recall", times, image_id=image_id, tenant=tenant, share=share
        )
        return cast(Embedded, found)

    async def decode(
        self,
        image: str,
        requests: Sequence[PromptRequest],
        *,
        options: MaskOptions,
        tenant: str,
        times: StageTimes,
        share: str,
    ) -> Decoded:
        """Return the masks for every prompt on the image with that id."""
        decoded = await self._ask(
            of_image(image, tenant),
            "decode",
            times,
            image=image,
            requests=requests,
            options=options,
            tenant=tenant,
            share=share,
        )
        return cast(Decoded, decoded)

    async def segment(
        self,
        data: bytes,
        requests: Sequence[PromptRequest],
        *,
        options: MaskOptions,
        tenant: str,
        times: StageTimes,
        share: str,
        image_id: str | None = None,
        replace: bool = False,
        stretch: Stretch = "range",
    ) -> tuple[Embedded, Decoded]:
        """Return the embedded picture and its masks."""
        name = image_id or await self._own_id(data, stretch, times, share)
        found = await self._ask(
            of_image(name, tenant),
            "segment",
            times,
            data=data,
            requests=requests,
            options=options,
            tenant=tenant,
            share=share,
            image_id=image_id,
            replace=replace,
            stretch=stretch,
        )
        return cast(tuple[Embedded, Decoded], found)

    async def everything(
        self,
        picture: str | NewPicture,
        criteria: Criteria,
        *,
        tenant: str,
        times: StageTimes,
        share: str,
        report: Report,
    ) -> tuple[str, Everything]:
        """Return the id of a picture and every object on it. A search that loses its Device begins again."""
        if isinstance(picture, NewPicture):
            name = picture.image_id or await self._own_id(picture.data, picture.stretch, times, share)
        else:
            name = picture
        arguments = {"picture": picture, "criteria": criteria, "tenant": tenant, "share": share}
        async with within(self.settings.everything_deadline_s, DEADLINE_SETTING):
            self.ready()
            found = await self._asking.search(of_image(name, tenant), arguments, times, report=report)
        return cast(tuple[str, Everything], found)

    async def export(
        self,
        image_id: str,
        *,
        dtype: EmbeddingDtype,
        form: EmbeddingFormat,
        tenant: str,
        times: StageTimes,
        share: str,
    ) -> Exported:
        """Return a file with the feature maps of a picture."""
        file = await self._ask(
            of_image(image_id, tenant),
            "export",
            times,
            image_id=image_id,
            dtype=dtype,
            form=form,
            tenant=tenant,
            share=share,
        )
        return cast(Exported, file)

    async def describe(self, image_id: str, *, tenant: str) -> ImageRecord:
        """Return information about a stored picture."""
        key = of_image(image_id, tenant)
        return cast(ImageRecord, await self._ask(key, "describe", image_id=image_id, tenant=tenant))

    async def describe_all(self, *, tenant: str, limit: int, after: str | None) -> list[ImageRecord]:
        """Return at most `limit` stored pictures. Any Device knows all names."""
        found = await self._ask("", "describe_all", tenant=tenant, limit=limit, after=after)
        return cast(list[ImageRecord], found)

    async def delete(self, image_id: str, *, tenant: str) -> None:
        """Delete an image everywhere."""
        await self._ask(of_image(image_id, tenant), "delete", image_id=image_id, tenant=tenant)

    def keeps(self, embedding_bytes: int) -> int:
        """Return how many embeddings of this size all Devices keep before the first one is dropped."""
        limits = self._watch.limits
        memory_bytes = (limits.device_bytes + limits.host_bytes) * max(1, len(self._watch.states))
        keeps_files = any(state.keeps_files for state in self._watch.states)
        disk_bytes = self.settings.disk_cache_mib * 2**20 if keeps_files else 0
        return max(memory_bytes, disk_bytes) // embedding_bytes

    async def work(self, job: Callable[[], T], *, share: str) -> T:
        """Run a job in a worker thread of this process, with the deadline of a request."""
        async with within(self.settings.deadline_s):
            return await self._workers.run(job, share=share)

    async def devices(self) -> list[DeviceState]:
        """Return all Devices as they were at the last look."""
        return self._watch.states

    async def figures(self) -> bytes:
        """Return the metrics of this process and of each Device, which `device` names."""
        theirs = await figures_of(self._devices) if self.is_loaded else []
        return merged(self.metrics.render(), theirs)

    async def _ask(self, key: str, method: str, times: StageTimes | None = None, **arguments: Any) -> Any:
        async with within(self.settings.deadline_s):
            self.ready()  # admission comes before any work
            return await self._asking.ask(key, method, arguments, self._devices.ask, times or StageTimes())

    async def _follow(
        self, key: str, method: str, *, is_anew: bool, **arguments: Any
    ) -> AsyncGenerator[FrameStep, None]:
        self.ready()
        async with aclosing(self._asking.follow(key, method, arguments, is_anew=is_anew)) as steps:
            async for step in steps:
                yield step
                if self._draining:  # it may take minutes more
                    raise ShuttingDown()

    async def _own_id(self, data: bytes, stretch: Stretch, times: StageTimes, share: str) -> str:
        """Return the id that a picture without a name will get."""
        async with within(self.settings.deadline_s):
            return content_id(await digest_of(data, workers=self._workers, times=times, share=share), stretch)
