"""Low-resolution logits near a mask's border, all that its outline depends on, in a fraction of the memory.

For masks that wait until it is known which of them are returned: an outline takes ten times as long as what is
kept here. Does not know what an outline is.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.masks.runs import Floats, finite


@dataclass(frozen=True, slots=True, eq=False)
class BorderLogits:
    """Logits (h, w) of which only those near the border are known."""

    shape: tuple[int, int]
    inside: npt.NDArray[np.uint8]
    """One bit for each logit: whether it is above 0."""
    places: npt.NDArray[np.int32]
    """(n,): where in the flattened map the logits near the border are."""
    values: Floats
    """(n,): those logits, finite."""

    @classmethod
    def of(cls, logits_hw: Floats, *, height: int, width: int) -> "BorderLogits":
        """What two neighbouring pixels of a picture of this size see, one on the mask and the other not.

        Each looks at the four logits around it. So all eight are within a distance of both a logit above 0 and one
        that is not: that of the two pixels, and one for the logits beside each.
        """
        h, w = logits_hw.shape
        window = tuple(2 * (ceil(samples / pixels) + 1) + 1 for samples, pixels in ((h, height), (w, width)))
        known = finite(logits_hw)
        inside = known > 0
        near = ndimage.maximum_filter(inside, size=window, mode="nearest")
        near &= ~ndimage.minimum_filter(inside, size=window, mode="nearest")
        places = np.flatnonzero(near).astype(np.int32)
        return cls((h, w), np.packbits(inside), places, known.ravel()[places])

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return self.inside.nbytes + self.places.nbytes + self.values.nbytes

    def to_map(self) -> Floats:
        """The logits (h, w); +1 or -1 away from the border."""
        h, w = self.shape
        signs = np.unpackbits(self.inside, count=h * w)
        logits = np.where(signs, np.float32(1), np.float32(-1))
        logits[self.places] = self.values
        return logits.reshape(h, w)
