"""The fields of a request that say how its masks come back; schemas.py puts them beside prompts.

Knows nothing of prompts.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_AREA = 65536
"""Of a hole or a speck: no mask has more pixels at low resolution."""
MOST_TOLERANCE = 1000
"""Pixels by which an outline may move; far beyond what leaves a shape."""


class Wire(BaseModel):
    """Refuses unknown fields, and strings or booleans where numbers belong."""

    model_config = ConfigDict(extra="forbid", strict=True)


class MaskFields(Wire):
    """How masks come back: for all prompts of a request."""

    mask_format: Literal["rle", "rle_uncompressed", "polygons", "png"] = Field(
        "rle", description="How masks come back."
    )
    return_logits: bool = Field(
        False, description="Add logits, to send back as mask_input: those of before any clean-up."
    )
    max_hole_area: Annotated[float, Field(ge=0, le=MOST_AREA, allow_inf_nan=False)] = Field(
        0.0,
        description="Fill holes of at most so many pixels of the low-resolution logits (`mask_size` of /model: of "
        "256 x 256, one is width/256 x height/256 of the picture), neighbours also across corners; background "
        "along the border counts too. Before the mask is enlarged, as Meta's predictor does. 0: none.",
    )
    max_sprinkle_area: Annotated[float, Field(ge=0, le=MOST_AREA, allow_inf_nan=False)] = Field(
        0.0,
        description="Remove specks of at most so many pixels of the low-resolution logits, counted as those of "
        "max_hole_area are, and before any hole is filled. 0: none.",
    )
    simplify: Annotated[float, Field(ge=0, le=MOST_TOLERANCE, allow_inf_nan=False)] = Field(
        0.0,
        description="Of polygons: leave points out as long as the outline moves by no more than so many pixels of "
        "the picture (Douglas-Peucker). 0: keep all.",
    )
    bounds: bool = Field(
        False,
        description="Of rle, rle_uncompressed and png: the mask is cropped to its box, see the reply's bounds.",
    )

    @model_validator(mode="after")
    def _fits_its_format(self) -> Self:
        if self.simplify and self.mask_format != "polygons":
            raise ValueError(f"simplify is for mask_format 'polygons', not {self.mask_format!r}")
        if self.bounds and self.mask_format == "polygons":
            raise ValueError("bounds is for mask_format 'rle', 'rle_uncompressed' and 'png', not 'polygons'")
        return self
