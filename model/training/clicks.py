"""Where a person would click next on one object: at the middle of what is most wrong.

Does not know about networks; corrections.py does the same for batches. The protocol is that of the evaluation set:
object pixels that are missed and background pixels that are wrongly included are the two error regions; the next
click falls on the point farthest from its region's boundary.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Click:
    """One pixel of a mask's grid."""

    x: int
    y: int
    is_object: bool
    """True for a positive click, on missed object; False for a negative one, on wrongly included background."""


def central_click(truth: Mask, prediction: Mask, *, excluded: Mask) -> Click | None:
    """The pixel farthest from the boundary of its error region, in the kind of error where that is farther.

    All masks (h, w). The picture's border counts as boundary. `excluded` are pixels that may not be clicked: those
    clicked before. None where every wrong pixel is excluded.
    """
    missed = _distances(truth & ~prediction) * ~excluded
    included = _distances(prediction & ~truth) * ~excluded
    is_object = bool(missed.max() >= included.max())
    distances = missed if is_object else included
    place = int(distances.argmax())
    if distances.flat[place] == 0:
        return None
    y, x = divmod(place, truth.shape[1])
    return Click(x, y, is_object)


def _distances(region: Mask) -> npt.NDArray[np.float32]:
    """(h, w): how far each pixel of the region is from the nearest pixel outside it, or outside the picture."""
    padded = cv2.copyMakeBorder(region.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distances = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distances, np.float32)[1:-1, 1:-1]
