"""The requested form of masks: clean-up and logits. Does not know about prompts and replies."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class MaskOptions:
    """Options for all prompts of a request. The defaults leave the model's masks unchanged."""

    logits: bool = False
    """Return the logits too, as they are before any clean-up, to refine a mask."""
    max_hole_area: float = 0.0
    """Fill holes of at most this many pixels of the logits (`Model.mask_size`)."""
    max_sprinkle_area: float = 0.0
    """Remove specks of at most this many pixels of the logits."""

    def __post_init__(self) -> None:
        """Raises ValueError for an area that JSON cannot carry. Its range is the service's to check."""
        for name in ("max_hole_area", "max_sprinkle_area"):
            if not math.isfinite(value := getattr(self, name)):
                raise ValueError(f"{name} is {value!r}, but must be a finite number of pixels")

    def to_wire(self) -> dict[str, Any]:
        """Return the fields for /decode and /segment."""
        wire: dict[str, Any] = {"return_logits": self.logits}
        if self.max_hole_area:
            wire["max_hole_area"] = float(self.max_hole_area)
        if self.max_sprinkle_area:
            wire["max_sprinkle_area"] = float(self.max_sprinkle_area)
        return wire
