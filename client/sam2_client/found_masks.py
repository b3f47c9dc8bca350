"""A mask that `everything` found: a mask, with the click and the part of the picture that found it.

Does not know about requests.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

from sam2_client.masks import Mask, Origin


@dataclass(frozen=True, eq=False, kw_only=True)
class FoundMask(Mask):
    """A mask at the picture's own size, and what found it."""

    point: tuple[float, float]
    """The click (x, y) in pixels of the picture."""
    crop_box: tuple[int, int, int, int]
    """x0, y0, x1, y1 of the part of the picture that was looked at; all of it without crops. The reply's `crop`."""

    @classmethod
    def from_dict(
        cls, value: dict[str, Any], *, size: tuple[int, int] | None = None, origin: Origin | None = None
    ) -> "FoundMask":
        """See Mask.from_dict."""
        mask = Mask.from_dict(value, size=size, origin=origin)
        x, y = map(float, value["point"])
        x0, y0, x1, y1 = map(int, value["crop"])
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"a click at {x}, {y}")
        known = {field.name: getattr(mask, field.name) for field in fields(Mask)}
        return cls(**known, point=(x, y), crop_box=(x0, y0, x1, y1))

    def to_dict(self) -> dict[str, Any]:
        """See Mask.to_dict."""
        return {**super().to_dict(), "point": list(self.point), "crop": list(self.crop_box)}
