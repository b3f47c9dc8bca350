"""Small holes filled and small specks removed, in low-resolution mask logits.

As Meta's SAM2Transforms.postprocess_masks does (facebookresearch/sam2 98fcb164, sam2/utils/transforms.py, with
the components of sam2/csrc/connected_components.cu), without a GPU. Knows nothing of a picture's own size.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Logits = npt.NDArray[np.float32]
Booleans = npt.NDArray[np.bool_]

_FILLED, _REMOVED = np.float32(10), np.float32(-10)
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


def clean(logits_hw: Logits, *, max_hole_area: float, max_sprinkle_area: float) -> Logits:
    """Logits (h, w) in which small connected areas have changed sides: +10 for a hole, -10 for a sprinkle.

    A hole is a connected area of logits <= 0, a sprinkle one of logits > 0, of at most so many pixels of the
    logits; pixels that touch at a corner are connected. Both are judged on the logits that came in, and of what
    was filled nothing is counted anew: a sprinkle within a hole is removed where the hole is filled and becomes a
    hole itself, and background along the border counts as a hole too. All that is Meta's. The logits that came in
    are never written to; where nothing is asked for they are what is returned.
    """
    inside = logits_hw > 0
    cleaned = logits_hw
    if max_hole_area > 0:
        cleaned = np.where(_small_areas(~inside, max_hole_area), _FILLED, cleaned)
    if max_sprinkle_area > 0:
        cleaned = np.where(_small_areas(inside, max_sprinkle_area), _REMOVED, cleaned)
    return cleaned


def _small_areas(mask: Booleans, most: float) -> Booleans:
    """Where connected areas of `mask` lie that have at most so many pixels."""
    labels, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    small = np.bincount(labels.ravel()) <= most
    small[0] = False  # what is not in `mask`
    return np.asarray(small[labels])
