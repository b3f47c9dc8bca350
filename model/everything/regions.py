"""Small regions of a mask at the picture's size: holes are filled, and islands removed.

As Meta's remove_small_regions and SAM2AutomaticMaskGenerator.postprocess_small_regions. The generator itself never
calls these: its `min_mask_region_area` cleans low-resolution logits instead (model/masks/cleaning.py). Does not
know about logits.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import ndimage

from model.everything.boxes import corners, nms
from model.masks.runs import Runs

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


def remove_small_regions(mask: Runs, *, area: float, mode: Literal["holes", "islands"]) -> tuple[Runs, bool]:
    """Fill holes, or remove islands, of fewer than `area` pixels, 8-connected. Also return whether there were any.

    If all islands are small, the largest stays.
    """
    inside = mask.to_array()
    sought = ~inside if mode == "holes" else inside
    labels, count = ndimage.label(sought, structure=_EIGHT_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    small = sizes < area
    if not small.any():
        return mask, False
    if mode == "islands" and small.all():
        small[sizes.argmax()] = False
    changed = np.concatenate(([False], small))[labels]
    return Runs.from_array(inside | changed if mode == "holes" else inside & ~changed), True


def postprocess_small_regions(
    masks: Sequence[Runs], *, min_area: float, nms_thresh: float
) -> list[tuple[int, Runs]]:
    """Clean masks, and drop the near duplicates that this makes; masks that were clean go first.

    Returns the masks that are left, with their places among the given ones.
    """
    cleaned, scores = [], []
    for mask in masks:
        filled, had_holes = remove_small_regions(mask, area=min_area, mode="holes")
        alone, had_islands = remove_small_regions(filled, area=min_area, mode="islands")
        cleaned.append(alone)
        scores.append(0.0 if had_holes or had_islands else 1.0)
    boxes = np.array([corners(mask.bbox) for mask in cleaned], np.float32).reshape(-1, 4)
    return [(int(i), cleaned[i]) for i in nms(boxes, np.array(scores, np.float32), threshold=nms_thresh)]
