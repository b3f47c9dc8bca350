"""Where a person would click next: at the middle of what is most wrong, or anywhere in it.

Knows nothing of networks. The protocol is that of the evaluation set: object pixels that are missed and background
pixels that are wrongly included are the two error regions; the next click falls on the point farthest from its
region's boundary.
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


def random_click(
    truth: Mask, prediction: Mask, *, excluded: Mask, generator: np.random.Generator
) -> Click | None:
    """Any pixel of the error regions, each as likely; otherwise as `central_click`."""
    wrong = np.flatnonzero((truth ^ prediction) & ~excluded)
    if not wrong.size:
        return None
    y, x = divmod(int(wrong[generator.integers(wrong.size)]), truth.shape[1])
    return Click(x, y, bool(truth[y, x]))


def jittered_box(
    truth: Mask, *, share: float, generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """A box about a mask that is not empty, each side moved by up to `share` of the box's width or height.

    x0, y0, x1, y1 in pixels, x1 and y1 where the last pixel ends; inside the picture, x0 < x1, y0 < y1.
    """
    height, width = truth.shape
    columns, rows = np.flatnonzero(truth.any(axis=0)), np.flatnonzero(truth.any(axis=1))
    x0, x1 = float(columns[0]), float(columns[-1]) + 1
    y0, y1 = float(rows[0]), float(rows[-1]) + 1
    moves = generator.uniform(-share, share, 4) * (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
    x0, y0, x1, y1 = np.array([x0, y0, x1, y1]) + moves
    return max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)


def _distances(region: Mask) -> npt.NDArray[np.float32]:
    """(h, w): how far each pixel of the region is from the nearest pixel outside it, or outside the picture."""
    padded = cv2.copyMakeBorder(region.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distances = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distances, np.float32)[1:-1, 1:-1]
