"""Image: an embedded picture to click on, of Client.

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
    from sam2_client.client import Client


class Image(KnownImage):
    """An embedded picture to click on."""

    def __init__(self, embedded: Embedded, client: "Client") -> None:
        super().__init__(embedded)
        self._client = client

    def decode(
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
        """Return the masks of one prompt, best predicted IoU first. The prompt's fields are those of Prompt.

        `mask` refines an earlier mask by sending its logits. If that mask's reply came without logits, the client
        requests them first. `logits=True` requests them with the masks, which saves that request but makes the
        reply large.

        `max_hole_area` fills holes and `max_sprinkle_area` removes specks of at most that many pixels, as
        SAM2ImagePredictor does. 0 leaves all of them. The pixels are those of the model's own small mask, before
        it is enlarged. If that is 256 x 256 (`client.model().mask_size`), one of them is
        width / 256 x height / 256 pixels of the picture. Refining starts from the logits before any clean-up.
        """
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask, multimask=multimask)
        (masks,) = self.decode_many(
            [prompt], logits=logits, max_hole_area=max_hole_area, max_sprinkle_area=max_sprinkle_area
        )
        return masks

    def decode_many(
        self,
        prompts: Sequence[Prompt],
        *,
        logits: bool = False,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> list[list[Mask]]:
        """Return the masks of each prompt, in order. Sends up to 64 prompts in a request. See decode."""
        options = MaskOptions(logits, max_hole_area, max_sprinkle_area)
        retries = self._client._retries
        return self._client._tell(stories.decode(self._embedded, prompts, options=options, retries=retries))

    def closer(self, to: Mask | Box, *, margin: float = MARGIN) -> "Image":
        """Embed the part of the picture around a mask or a box x0, y0, x1, y1, to find a small object more exactly.

        Returns an image for the same calls. Coordinates and masks stay those of the whole picture. Clicks and boxes
        must be within `region`: a square with `margin` times the longer side of what it shows, at least 64 pixels.
        A mask of either image can be refined on the other. If the square has more than 60 % of the picture, nothing
        would be gained: then this image itself is returned.

        The part is cut out here and uploaded, so the server need not keep pictures. Raises ValueError for an empty
        mask and if the client does not have the picture's file or pixels, and OSError if it cannot be opened here.
        """
        picture = picture_around(to, self._embedded, margin=margin)
        if picture is None:
            return self
        story = stories.embed(picture, image_id=None, replace=False, retries=self._client._retries)
        return Image(self._client._tell(story), self._client)

    def everything(
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
        """Return every object of the picture, best predicted IoU first. EverythingOptions describes the options.

        `progress=True` shows a bar on standard error. A function is called instead with how far the work is, 0..1,
        and how many masks are found; what it raises ends the work. If the connection breaks after the first such
        step, the call fails with ConnectionFailed and is not repeated. Raises TypeError or ValueError for options
        of a wrong type or shape.
        """
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
            return self._client._tell(story)

    def feature_maps(self, *, dtype: Literal["float16", "float32"] = "float32") -> dict[str, Floats]:
        """Return the encoder's output for the picture, for your own decoder or model.

        Arrays by name, channels first: image_embed (1, 256, 64, 64), high_res_feats_0 (1, 32, 256, 256) and
        high_res_feats_1 (1, 64, 128, 128) for the released models.
        """
        retries = self._client._retries
        return self._client._tell(stories.feature_maps(self._embedded, dtype=dtype, retries=retries))

    def delete(self) -> None:
        """Delete this picture from the server. Succeeds also if the server does not have it."""
        self._client._tell(holdings.delete(self.image_id, retries=self._client._retries))
