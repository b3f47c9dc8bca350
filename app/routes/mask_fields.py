"""Request fields for the format of the masks; schemas.py combines them with prompts.

Does not know about prompts.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MOST_AREA = 65536
"""Largest hole or speck: no mask has more pixels at low resolution."""
MOST_TOLERANCE = 1000
"""Largest distance in pixels by which an outline may move; shapes are lost far below it."""

Area = Annotated[float, Field(ge=0, le=MOST_AREA, allow_inf_nan=False)]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Behind an integer of a request: 1.0 is one, as in JSON Schema, and NumPy's labels often come so."""


class Wire(BaseModel):
    """Rejects unknown fields, and strings or booleans instead of numbers."""

    model_config = ConfigDict(extra="forbid", strict=True)


class FormatFields(Wire):
    """The format of the masks of a request."""

    mask_format: Literal["rle", "rle_uncompressed", "polygons", "png"] = Field(
        "rle", description="Format of the masks."
    )
    return_logits: bool = Field(
        False, description="Add the logits, to send back as mask_input. They are those before any clean-up."
    )
    simplify: Annotated[float, Field(ge=0, le=MOST_TOLERANCE, allow_inf_nan=False)] = Field(
        0.0,
        description="Polygons only: remove points as long as the outline moves by at most this many pixels of "
        "the picture (Douglas-Peucker), and by less where the object or a gap is narrow. 0: a tenth of a pixel.",
    )
    bounds: bool = Field(
        False,
        description="rle, rle_uncompressed and png only: crop the mask to its box, which the reply's bounds give.",
    )

    @model_validator(mode="after")
    def _fits_its_format(self) -> Self:
        if self.simplify and self.mask_format != "polygons":
            raise ValueError(f"simplify requires mask_format 'polygons', not {self.mask_format!r}")
        if self.bounds and self.mask_format == "polygons":
            raise ValueError("bounds requires mask_format 'rle', 'rle_uncompressed' or 'png', not 'polygons'")
        return self


class MaskFields(FormatFields):
    """The format of the masks, and how they are cleaned, for all prompts of a request."""

    max_hole_area: Area = Field(
        0.0,
        description="Fill holes of at most this many pixels of the low-resolution logits (`mask_size` of /model; "
        "with 256 x 256, one is width/256 x height/256 of the picture), 8-connected; background "
        "at the border counts too. Done before the mask is enlarged, as in Meta's predictor. 0: none.",
    )
    max_sprinkle_area: Area = Field(
        0.0,
        description="Remove specks of at most this many pixels of the low-resolution logits, counted as for "
        "max_hole_area, before holes are filled. 0: none.",
    )
