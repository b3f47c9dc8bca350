"""AsyncClient and AsyncImage: the client for asyncio.

Only sends, waits and reads files. stories.py and holdings.py define what is sent and what replies mean.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Literal, Self, TypeVar

import httpx

from sam2_client import bodies, holdings, stories
from sam2_client.asking import Attempt, Story
from sam2_client.connection import DEFAULT_URL, options
from sam2_client.everything_options import EverythingOptions, Order
from sam2_client.found_masks import FoundMask
from sam2_client.images import EmbedResult, Floats, KnownImage, Model, Progress, check_concurrency
from sam2_client.mask_options import MaskOptions
from sam2_client.masks import Embedded, Mask
from sam2_client.pictures import Picture, PictureSource, Stretch
from sam2_client.prompts import Box, Labels, MaskPrompt, Points, Prompt
from sam2_client.retries import Retries
from sam2_client.step_lines import OnStep, watched

T = TypeVar("T")


class AsyncClient:
    """Client with `await`. Reads files and encodes pixels in threads."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """See Client."""
        self._http = httpx.AsyncClient(**options(url, api_key, timeout), transport=transport)
        self._retries = Retries(retries)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def embed(
        self,
        picture: PictureSource,
        image_id: str | None = None,
        *,
        replace: bool = False,
        stretch: Stretch = "range",
    ) -> "AsyncImage":
        """See Client.embed."""
        ready = await asyncio.to_thread(Picture, picture, stretch=stretch)
        story = stories.embed(ready, image_id=image_id, replace=replace, retries=self._retries)
        return self._image(await self._tell(story))

    async def segment(
        self,
        picture: PictureSource,
        points: Points | None = None,
        labels: Labels | None = None,
        *,
        box: Box | None = None,
        mask: MaskPrompt | None = None,
        multimask: bool | None = None,
        logits: bool = False,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> list[Mask]:
        """See Client.segment."""
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask, multimask=multimask)
        options = MaskOptions(logits, max_hole_area, max_sprinkle_area)
        ready = await asyncio.to_thread(Picture, picture)
        return await self._tell(stories.segment(ready, prompt, options=options, retries=self._retries))

    async def embed_many(
        self, pictures: Iterable[PictureSource], *, concurrency: int = 4, progress: bool = True
    ) -> list[EmbedResult["AsyncImage"]]:
        """See Client.embed_many."""
        sources = check_concurrency(pictures, concurrency)
        free = asyncio.Semaphore(concurrency)
        with Progress(len(sources), shown=progress) as bar:

            async def embed_one(source: PictureSource) -> EmbedResult["AsyncImage"]:
                async with free:
                    result = await self._embed_one(source)
                bar.count(result.error)
                return result

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(embed_one(source)) for source in sources]
        return [task.result() for task in tasks]

    async def image(self, image_id: str) -> "AsyncImage":
        """See Client.image."""
        return self._image(await self._tell(holdings.find(image_id, retries=self._retries)))

    async def images(self) -> list["AsyncImage"]:
        """See Client.images."""
        held = await self._tell(holdings.find_all(retries=self._retries))
        return [self._image(embedded) for embedded in held]

    async def delete(self, image_id: str) -> None:
        """See Client.delete."""
        await self._tell(holdings.delete(image_id, retries=self._retries))

    async def model(self) -> Model:
        """See Client.model."""
        return await self._tell(holdings.model(retries=self._retries))

    def _image(self, embedded: Embedded) -> "AsyncImage":
        return AsyncImage(embedded, self)

    async def _embed_one(self, source: PictureSource) -> EmbedResult["AsyncImage"]:
        try:
            return EmbedResult(source, await self.embed(source), None)
        except Exception as error:  # any exception is the result of this picture
            return EmbedResult(source, None, error)

    async def _tell(self, story: Story[T]) -> T:
        try:
            attempt = next(story)
            while True:
                try:
                    response = await self._send(attempt)
                except httpx.RequestError as error:
                    attempt = story.throw(error)
                else:
                    attempt = story.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, attempt: Attempt) -> httpx.Response:
        if attempt.wait_s:
            await asyncio.sleep(attempt.wait_s)
        if attempt.call.picture is None:
            request = attempt.call.request(self._http)
        else:
            request = await asyncio.to_thread(attempt.call.request, self._http)
        response = await self._http.send(request, stream=True)
        try:
            return await bodies.aread(response, on_step=attempt.call.on_step)
        finally:
            await response.aclose()


class AsyncImage(KnownImage):
    """An embedded picture to click on: Image with `await`."""

    def __init__(self, embedded: Embedded, client: AsyncClient) -> None:
        super().__init__(embedded)
        self._client = client

    async def decode(
        self,
        points: Points | None = None,
        labels: Labels | None = None,
        *,
        box: Box | None = None,
        mask: MaskPrompt | None = None,
        multimask: bool | None = None,
        logits: bool = False,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> list[Mask]:
        """See Image.decode."""
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask, multimask=multimask)
        (masks,) = await self.decode_many(
            [prompt], logits=logits, max_hole_area=max_hole_area, max_sprinkle_area=max_sprinkle_area
        )
        return masks

    async def decode_many(
        self,
        prompts: Sequence[Prompt],
        *,
        logits: bool = False,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> list[list[Mask]]:
        """See Image.decode_many."""
        options = MaskOptions(logits, max_hole_area, max_sprinkle_area)
        retries = self._client._retries
        return await self._client._tell(
            stories.decode(self._embedded, prompts, options=options, retries=retries)
        )

    async def everything(
        self,
        *,
        points_per_side: int | None = None,
        points: Points | None = None,
        region: Box | None = None,
        pred_iou_thresh: float | None = None,
        stability_score_thresh: float | None = None,
        stability_score_offset: float | None = None,
        mask_threshold: float | None = None,
        box_nms_thresh: float | None = None,
        crop_n_layers: int | None = None,
        crop_nms_thresh: float | None = None,
        crop_overlap_ratio: float | None = None,
        crop_n_points_downscale_factor: int | None = None,
        min_mask_region_area: float | None = None,
        use_m2m: bool | None = None,
        multimask_output: bool | None = None,
        max_masks: int | None = None,
        order: Order | None = None,
        logits: bool = False,
        progress: bool | OnStep = False,
    ) -> list[FoundMask]:
        """See Image.everything."""
        options = EverythingOptions(
            points_per_side=points_per_side,
            points=points,
            region=region,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            stability_score_offset=stability_score_offset,
            mask_threshold=mask_threshold,
            box_nms_thresh=box_nms_thresh,
            crop_n_layers=crop_n_layers,
            crop_nms_thresh=crop_nms_thresh,
            crop_overlap_ratio=crop_overlap_ratio,
            crop_n_points_downscale_factor=crop_n_points_downscale_factor,
            min_mask_region_area=min_mask_region_area,
            use_m2m=use_m2m,
            multimask_output=multimask_output,
            max_masks=max_masks,
            order=order,
            logits=logits,
        )
        retries = self._client._retries
        with watched(progress) as on_step:
            story = stories.everything(self._embedded, options=options, on_step=on_step, retries=retries)
            return await self._client._tell(story)

    async def feature_maps(self, *, dtype: Literal["float16", "float32"] = "float32") -> dict[str, Floats]:
        """See Image.feature_maps."""
        retries = self._client._retries
        return await self._client._tell(stories.feature_maps(self._embedded, dtype=dtype, retries=retries))

    async def delete(self) -> None:
        """See Image.delete."""
        await self._client._tell(holdings.delete(self.image_id, retries=self._client._retries))
