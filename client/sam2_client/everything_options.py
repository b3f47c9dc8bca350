"""What `everything` looks for on a picture, by the names of SAM2AutomaticMaskGenerator, and its form in JSON.

Checks types and shapes. Ranges, and what goes together, are the service's to check.
"""

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from sam2_client.prompts import Box, Points, read_numbers

Order: TypeAlias = Literal["iou", "area"]

_WHOLE = ("points_per_side", "crop_n_layers", "crop_n_points_downscale_factor", "max_masks")
_REAL = (
    "pred_iou_thresh",
    "stability_score_thresh",
    "stability_score_offset",
    "mask_threshold",
    "box_nms_thresh",
    "crop_nms_thresh",
    "crop_overlap_ratio",
    "min_mask_region_area",
)
_YES_NO = ("use_m2m", "multimask_output")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EverythingOptions:
    """What to look for. None leaves a value to the server, whose defaults are Meta's or the model's own."""

    points_per_side: int | None = None
    """Clicks on a grid of so many points a side. The server's default is 32."""
    points: Points | None = None
    """Own clicks (x, y) instead of the grid, in 0..1 of the picture."""
    region: Box | None = None
    """x0, y0, x1, y1 in pixels: click only there."""
    pred_iou_thresh: float | None = None
    """Masks with a predicted IoU above this are objects."""
    stability_score_thresh: float | None = None
    """Masks with at least this stability are objects."""
    stability_score_offset: float | None = None
    """Stability is the IoU of the mask at logits this far above and below mask_threshold."""
    mask_threshold: float | None = None
    """Logits above are the object."""
    box_nms_thresh: float | None = None
    """Of two masks of a crop whose boxes have a larger IoU than this, the better is kept."""
    crop_n_layers: int | None = None
    """Also look at crops of the picture, 2**i a side for each layer i. The picture is uploaded again for them."""
    crop_nms_thresh: float | None = None
    """As box_nms_thresh, between crops."""
    crop_overlap_ratio: float | None = None
    """Overlap of the crops of the first layer, in shorter sides of the picture."""
    crop_n_points_downscale_factor: int | None = None
    """In layer i, points_per_side is divided by this to the power of i."""
    min_mask_region_area: float | None = None
    """Fill holes and remove specks of at most this many pixels of the logits (`Model.mask_size`)."""
    use_m2m: bool | None = None
    """Refine each mask once before it is judged."""
    multimask_output: bool | None = None
    """Three masks for each click, or one."""
    max_masks: int | None = None
    """Return at most so many, the first in the order."""
    order: Order | None = None
    """Best predicted IoU first ("iou", the server's default), or largest first ("area")."""
    logits: bool = False
    """Return the logits too, to refine a mask. Without them its RLE is refined."""

    def to_wire(self) -> dict[str, Any]:
        """Return the fields for /everything. Raises TypeError or ValueError for a wrong type or shape."""
        wire: dict[str, Any] = {"return_logits": True} if self.logits else {}
        if self.points is not None:
            points = read_numbers("points", self.points)
            if points.ndim != 2 or points.shape[1] != 2:
                raise ValueError(
                    f"points is {self.points!r}, but must be a list of (x, y) in 0..1, such as [(0.5, 0.25)]"
                )
            wire["points"] = points.tolist()
        if self.region is not None:
            region = read_numbers("region", self.region)
            if region.shape != (4,):
                raise ValueError(f"region is {self.region!r}, but must be x0, y0, x1, y1")
            wire["region"] = region.tolist()
        for name in (*_WHOLE, *_REAL, *_YES_NO):
            if (value := getattr(self, name)) is not None:
                wire[name] = _checked(name, value)
        if self.order is not None:
            if self.order not in get_args(Order):
                raise ValueError(f"order is {self.order!r}, but must be one of {', '.join(get_args(Order))}")
            wire["order"] = self.order
        return wire


def _checked(name: str, value: Any) -> int | float | bool:
    if name in _YES_NO:
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} is {value!r}, but must be True, False or None")
        return bool(value)
    if isinstance(value, bool | np.bool_ | str):
        raise TypeError(f"{name} is {value!r}, but must be a number")
    if name in _WHOLE:
        try:
            return operator.index(value)
        except TypeError:
            raise TypeError(f"{name} is {value!r}, but must be a whole number") from None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} is {value!r}, but must be a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}, but must be finite")
    return number
