"""Boxes of masks: which lie at the edge of a crop, and which are near duplicates of better ones.

Boxes are x0, y0, x1, y1 of the first and the last pixel, as in Meta's batched_mask_to_box: one less than the pixels
in width and height. Does not know about masks.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Boxes: TypeAlias = npt.NDArray[np.float32]
"""(n, 4): x0, y0, x1, y1."""
Booleans: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]

EDGE_PX = 20.0
"""So close to a crop's edge, an object is most likely cut off."""


def corners(bbox: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """First and last pixel of COCO's x, y, width, height; all zeros for an empty mask, as in Meta's code."""
    x, y, width, height = bbox
    return (x, y, x + width - 1, y + height - 1) if width else (0, 0, 0, 0)


def near_crop_edge(
    boxes: Boxes, crop: tuple[int, int, int, int], *, height: int, width: int, px: float = EDGE_PX
) -> Booleans:
    """Whether boxes (n, 4), in pixels of the picture, end near an edge of the crop but not of the picture: (n,)."""
    near_crop = np.abs(boxes - np.array(crop, np.float32)) <= px
    near_picture = np.abs(boxes - np.array((0, 0, width, height), np.float32)) <= px
    return np.asarray((near_crop & ~near_picture).any(axis=1))


def nms(boxes: Boxes, scores: npt.NDArray[np.float32], *, threshold: float) -> Integers:
    """Indices of the boxes that are kept, highest score first: greedy non-maximum suppression.

    A box is dropped if its IoU with a kept one is above the threshold. Equal scores keep their order. As
    torchvision.ops.nms on a CPU: float32, and no + 1 on the sides. Empty boxes neither suppress nor are suppressed.
    """
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = boxes[order].T
    areas = (x1 - x0) * (y1 - y0)
    waiting = np.arange(len(order))
    kept = []
    while waiting.size:
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        w = np.minimum(x1[waiting], x1[best]) - np.maximum(x0[waiting], x0[best])
        h = np.minimum(y1[waiting], y1[best]) - np.maximum(y0[waiting], y0[best])
        inter = np.maximum(w, 0) * np.maximum(h, 0)
        union = areas[waiting] + areas[best] - inter
        iou = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
        waiting = waiting[iou.astype(np.float64) <= threshold]
    return order[np.array(kept, np.int64)]
