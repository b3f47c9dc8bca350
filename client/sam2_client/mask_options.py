"""How masks come back: cleaned up, with their logits. Knows nothing of prompts and of replies."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class MaskOptions:
    """For all prompts of a request; as they stand, the model's masks are left alone."""

    logits: bool = False
    """Send the logits along, to refine a mask: those of before any clean-up."""
    max_hole_area: float = 0.0
    """Fill holes of at most so many pixels of the logits (`Model.mask_size`)."""
    max_sprinkle_area: float = 0.0
    """Remove specks of at most so many pixels of the logits."""

    def to_wire(self) -> dict[str, Any]:
        """As /decode and /segment take them."""
        wire: dict[str, Any] = {"return_logits": self.logits}
        if self.max_hole_area:
            wire["max_hole_area"] = float(self.max_hole_area)
        if self.max_sprinkle_area:
            wire["max_sprinkle_area"] = float(self.max_sprinkle_area)
        return wire
