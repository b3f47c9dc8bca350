"""AsyncImage: an embedded picture to click on, of AsyncClient.

Only sends. stories.py and holdings.py define what is sent and what replies mean.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from sam2_client import holdings, stories
from sam2_client.closer import MARGIN, picture_around
from sam2_client.everything_options import EverythingOptions, Order
from sam2_client.found_masks import FoundMask
from sam2_client.images import Floats, KnownImage
from sam2_client.mask_options import MaskOptions
from sam2_client.masks import Embedded, Mask
from sam2_client.prompts import Box, Labels, MaskPrompt, Points, Prompt
from sam2_client.step_lines import OnStep, watched

if TYPE_CHECKING:
    from sam2_client.async_client import AsyncClient


class AsyncImage(KnownImage):
    """An embedded picture to click on: Image with `await`."""

    def __init__(self, embedded: Embedded, client: "AsyncClient") -> None:
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

    async def closer(self, to: Mask | Box, *, margin: float = MARGIN) -> "AsyncImage":
        """See Image.closer."""
        picture = picture_around(to, self._embedded, margin=margin)
        if picture is None:
            return self
        story = stories.embed(picture, image_id=None, replace=False, retries=self._client._retries)
        return AsyncImage(await self._client._tell(story), self._client)

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
