"""The service in this process, as routes and doors ask for it: what segmentation.py declares.

Adds the stories of more than one step to SegmentationService, and keeps embeddings from leaving it.
"""

import os
import socket
from collections.abc import Callable, Sequence

from app.codecs.answers import Decoded, MaskOptions
from app.codecs.deep import Stretch
from app.codecs.prompts import PromptRequest
from app.errors import ServiceError
from app.scheduling.deadlines import within
from app.scheduling.shares import Turns
from app.segmenter import Segmenter
from app.service.embedding_export import pack
from app.service.everything import everything
from app.service.found_masks import Criteria, Everything
from app.service.search import Report
from app.service.segmentation import (
    OF_DEVICES,
    DeviceState,
    Embedded,
    EmbeddingDtype,
    EmbeddingFormat,
    Exported,
    ModelCard,
    NewPicture,
)
from app.service.segmenting import segment
from app.service.service import SegmentationService, TakenIn
from app.settings import Settings
from app.storage.store import ImageRecord
from app.storage.tiers import DEVICE
from app.telemetry.metrics import Metrics
from app.telemetry.stages import StageTimes
from app.version import VERSION
from model.types import Embedding


class LocalSegmentation(SegmentationService):
    """A Segmentation."""

    def __init__(self, settings: Settings, metrics: Metrics, *, load: Callable[[], Segmenter]) -> None:
        super().__init__(settings, metrics, load=load)
        # Who waits for a worker with an embedding at hand holds it beside those that the cache may hold.
        self._exports = Turns(settings.workers, reserved=1)

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
        """Store the embedding of an uploaded picture. Raises what `take_in` raises."""
        model = self.ready().name
        taken = await self.take_in(
            data,
            tenant=tenant,
            image_id=image_id,
            replace=replace,
            times=times,
            share=share,
            stretch=stretch,
            needs_name=needs_name,
        )
        return _describe_taken(taken, model)

    async def recall(self, image_id: str, *, tenant: str, times: StageTimes, share: str) -> Embedded:
        """Return a stored picture, embedded again if only its upload was kept. Raises what `find` raises."""
        model = self.ready().name
        held = self._fetching.held(image_id, tenant=tenant, times=times, share=share)
        async with self._deadline(), held as embedding:
            return _describe(image_id, embedding, model, cached=True)

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
        """Return the embedded picture and its masks. Raises as segmenting.py says."""
        taken, decoded = await segment(
            self,
            data,
            requests,
            options=options,
            tenant=tenant,
            times=times,
            share=share,
            image_id=image_id,
            replace=replace,
            stretch=stretch,
        )
        return _describe_taken(taken, decoded.model), decoded

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
        """Return the id of a picture and every object on it. Raises as everything.py says."""
        return await everything(
            self, picture, criteria, tenant=tenant, times=times, share=share, report=report
        )

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
        """Return a file with the feature maps of a picture. Raises what `find` raises."""
        async with within(self.settings.deadline_s), self._exports.turn(share):
            embedding = await self.find(image_id, tenant=tenant, times=times, share=share)
            segmenter = self.ready()
            # A decoder of other weights would give masks that only look right, so the file says what it is of.
            metadata = {
                "model": segmenter.name,
                "fingerprint": segmenter.fingerprint,
                "width": str(embedding.width),
                "height": str(embedding.height),
            }
            content = await self.work(
                lambda: pack(embedding, dtype=dtype, form=form, metadata=metadata), share=share
            )
            return Exported(content, segmenter.name, segmenter.fingerprint)

    async def describe(self, image_id: str, *, tenant: str) -> ImageRecord:
        """Return information about a stored picture. Raises ImageNotFound."""
        self.ready()
        async with within(self.settings.deadline_s):
            return await self.store.describe(image_id, tenant=tenant)

    async def describe_all(self, *, tenant: str, limit: int, after: str | None) -> list[ImageRecord]:
        """Return at most `limit` stored pictures, newest name first. Raises ImageNotFound."""
        self.ready()
        async with within(self.settings.deadline_s):
            return await self.store.describe_all(tenant=tenant, limit=limit, after=after)

    def state(self, *, name: str = "0") -> DeviceState:
        """Return how the device is."""
        problem, model = "", None
        try:
            model = ModelCard.of(self.ready())
        except ServiceError as error:
            problem = error.message
        return DeviceState(
            name=name,
            node=socket.gethostname(),
            pid=os.getpid(),
            version=VERSION,
            problem=problem,
            model=model,
            limits=self.cache_limits if self.is_loaded else None,
            waiting=self._decoder.waiting + self._searcher.waiting + len(self._encodings),
            images=self.store.tiers.num_images(DEVICE) if self.is_loaded else 0,
            names_problem=self.names_problem,
            keeps_files=self.settings.keeps_files,
            settings={name: getattr(self.settings, name) for name in OF_DEVICES},
        )

    async def devices(self) -> list[DeviceState]:
        """Return the one device."""
        return [self.state()]

    async def figures(self) -> bytes:
        """Return the metrics of this process."""
        return self.metrics.render()


def _describe_taken(taken: TakenIn, model: str) -> Embedded:
    return _describe(taken.image_id, taken.embedding, model, cached=taken.cached)


def _describe(image_id: str, embedding: Embedding, model: str, *, cached: bool) -> Embedded:
    height, width, nbytes = embedding.height, embedding.width, embedding.nbytes
    return Embedded(image_id, height, width, nbytes, cached=cached, model=model)
