"""Fills small holes and removes small specks in low-resolution mask logits.

Like Meta's SAM2Transforms.postprocess_masks (facebookresearch/sam2 98fcb164, sam2/utils/transforms.py, with the
components of sam2/csrc/connected_components.cu), but without a GPU. Does not know the picture's size.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Logits = npt.NDArray[np.float32]
Booleans = npt.NDArray[np.bool_]

_FILLED, _REMOVED = np.float32(10), np.float32(-10)
_FILLED_IN_VIDEO = np.float32(0.1)
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


def clean(logits_hw: Logits, *, max_hole_area: float, max_sprinkle_area: float) -> Logits:
    """Return logits (h, w) with small connected areas inverted: +10 for a hole, -10 for a sprinkle.

    A hole is a connected area of logits <= 0, a sprinkle one of logits > 0, with at most the given number of
    pixels of the logits. Pixels that touch at a corner are connected. Both are found in the input, and nothing
    is counted again after filling: a sprinkle within a hole is removed where the hole is filled, and becomes a
    hole itself. Background at the border counts as a hole too. All of this is as in Meta's code. The input is
    never modified; it is returned itself if both limits are 0.
    """
    inside = logits_hw > 0
    cleaned = logits_hw
    if max_hole_area > 0:
        cleaned = np.where(_small_areas(~inside, max_hole_area), _FILLED, cleaned)
    if max_sprinkle_area > 0:
        cleaned = np.where(_small_areas(inside, max_sprinkle_area), _REMOVED, cleaned)
    return cleaned


def fill_in_video(logits_hw: Logits, *, max_hole_area: float) -> Logits:
    """Return logits (h, w) with holes made object, but barely: +0.1. Meta's fill_hole_area, for videos."""
    if max_hole_area <= 0:
        return logits_hw
    return np.where(_small_areas(logits_hw <= 0, max_hole_area), _FILLED_IN_VIDEO, logits_hw)


def _small_areas(mask: Booleans, most: float) -> Booleans:
    """Return where `mask` has connected areas of at most this many pixels."""
    labels, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    small = np.bincount(labels.ravel()) <= most
    small[0] = False  # what is not in `mask`
    return np.asarray(small[labels])
