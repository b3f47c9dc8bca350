"""J and F: how well the masks of a clip fit, by region and by contour, as DAVIS measures videos.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016), 5. Does
not know where masks come from.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from model.training.pack import Mask

CONTOUR_TOLERANCE = 0.008
"""Of the frame's diagonal: how far a contour may be off, as in DAVIS."""


def region(predicted: Mask, truth: Mask) -> float:
    """J: IoU of two masks (h, w); 1 where both are empty."""
    either = np.count_nonzero(predicted | truth)
    return float(np.count_nonzero(predicted & truth) / either) if either else 1.0


def contour(predicted: Mask, truth: Mask) -> float:
    """F: harmonic mean of the shares of either contour that lie near the other; 1 where both are empty."""
    ours, theirs = _contour_of(predicted), _contour_of(truth)
    if not ours.any() and not theirs.any():
        return 1.0
    if not ours.any() or not theirs.any():
        return 0.0
    disc = _disc(math.ceil(CONTOUR_TOLERANCE * math.hypot(*truth.shape)))
    precision = np.count_nonzero(ours & _wider(theirs, disc)) / np.count_nonzero(ours)
    recall = np.count_nonzero(theirs & _wider(ours, disc)) / np.count_nonzero(theirs)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _contour_of(mask: Mask) -> Mask:
    """(h, w): pixels that differ from the one to the right, below, or below to the right; DAVIS' seg2bmap."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    return (here ^ padded[:-1, 1:]) | (here ^ padded[1:, :-1]) | (here ^ padded[1:, 1:])


def _wider(contour: Mask, disc: npt.NDArray[np.uint8]) -> Mask:
    return np.asarray(cv2.dilate(contour.view(np.uint8), disc), np.uint8).view(np.bool_)


def _disc(radius: int) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x**2 + y**2 <= radius**2).astype(np.uint8)
