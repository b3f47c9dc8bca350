"""The wire format of /everything: SAM2AutomaticMaskGenerator's options by their names, and the reply.

Types and ranges only. Does not know what is found.
"""

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.codecs.answers import MaskOptions
from app.routes.image_ids import ImageId
from app.routes.mask_fields import WHOLE, Area, FormatFields
from app.routes.schemas import Box, MaskReply
from app.service.everything import MOST_POINTS
from app.service.found_masks import Criteria
from model.everything.candidates import Thresholds
from model.everything.crops import Pattern

Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fractions = Annotated[list[Share], Field(min_length=2, max_length=2)]

_OWN = " Left out: the model's own, which /model states."


class EverythingFields(FormatFields):
    """What to look for on a picture, and how to return it."""

    points_per_side: Annotated[int, Field(ge=1, le=256), WHOLE] = Field(
        32, description="Clicks on a grid of so many points a side."
    )
    points: Annotated[list[Fractions], Field(min_length=1, max_length=MOST_POINTS, fail_fast=True)] | None = (
        Field(None, description="Own clicks instead of the grid, as [x, y] in 0..1 of the picture.")
    )
    region: Box | None = Field(
        None, description="x0, y0, x1, y1 in pixels: click only there. The grid then covers the region."
    )
    pred_iou_thresh: Share | None = Field(
        None, description="Masks with a predicted IoU above this are objects; 0: all are." + _OWN
    )
    stability_score_thresh: Share | None = Field(
        None, description="Masks with at least this stability are objects." + _OWN
    )
    stability_score_offset: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="Stability is the IoU of the mask at logits this far above and below mask_threshold."
    )
    mask_threshold: Finite = Field(0.0, description="Logits above are the object.")
    box_nms_thresh: Share | None = Field(
        None,
        description="Of two masks of a crop whose boxes have a larger IoU than this, the better is kept."
        + _OWN,
    )
    crop_n_layers: Annotated[int, Field(ge=0, le=3), WHOLE] = Field(
        0,
        description="Also look at crops of the picture, 2**i a side for each layer i. Each is encoded anew, and "
        "counts as a picture.",
    )
    crop_nms_thresh: Share = Field(
        0.7, description="As box_nms_thresh, between crops; the smaller crop is kept."
    )
    crop_overlap_ratio: Share = Field(
        512 / 1500, description="Overlap of the crops of the first layer, in shorter sides of the picture."
    )
    crop_n_points_downscale_factor: Annotated[int, Field(ge=1, le=256), WHOLE] = Field(
        1, description="In layer i, points_per_side is divided by this to the power of i."
    )
    min_mask_region_area: Area = Field(
        0.0,
        description="Fill holes and remove specks of at most this many pixels of the low-resolution logits, as "
        "max_hole_area and max_sprinkle_area of /decode.",
    )
    use_m2m: bool = Field(False, description="Refine each mask once, by its own logits, before it is judged.")
    multimask_output: bool = Field(True, description="Three masks for each click, or one.")
    max_masks: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        None, description="Return at most so many, the first in the order."
    )
    order: Literal["iou", "area"] = Field("iou", description="Best predicted IoU or largest first.")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.points is not None and "points_per_side" in self.model_fields_set:
            raise ValueError(
                "points and points_per_side are given; points replace the grid, so give one of them"
            )
        if self.return_logits and self.crop_n_layers:
            raise ValueError(
                "return_logits requires crop_n_layers 0, because logits of a crop are not those of the picture; "
                "send the mask's RLE as mask_input instead"
            )
        return self

    def criteria(self, defaults: Thresholds, options: MaskOptions) -> Criteria:
        """Convert for the service. `defaults` are those of the model."""
        given = {
            name: value
            for name in Thresholds.__dataclass_fields__
            if (value := getattr(self, name)) is not None
        }
        pattern = Pattern(
            points_per_side=self.points_per_side,
            crop_n_layers=self.crop_n_layers,
            crop_overlap_ratio=self.crop_overlap_ratio,
            crop_n_points_downscale_factor=self.crop_n_points_downscale_factor,
            points=self.points,
            region=None if self.region is None else (*self.region,),  # type: ignore[arg-type]  # four, as checked
        )
        return Criteria(
            pattern,
            replace(defaults, **given),
            options,
            use_m2m=self.use_m2m,
            multimask_output=self.multimask_output,
            max_masks=self.max_masks,
            order=self.order,
        )


class EverythingBody(EverythingFields):
    """Every object of an embedded picture."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image_id": "example", "points_per_side": 8, "max_masks": 20}]}
    )

    image_id: ImageId


class FoundReply(MaskReply):
    """A mask, and what found it."""

    point: tuple[float, float] = Field(description="The click, in pixels of the picture.")
    crop: tuple[int, int, int, int] = Field(
        description="x0, y0, x1, y1 of the part of the picture that was looked at; all of it without crops."
    )


class EverythingReply(BaseModel):
    """Every object of a picture, in the order asked for."""

    image_id: str
    width: int
    height: int
    model: str
    masks: list[FoundReply]
