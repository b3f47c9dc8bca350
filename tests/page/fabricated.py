"""Replies of POST /everything with masks of any shape. Does not know about the page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Object:
    """A mask (height, width) with its scores."""

    mask: Mask
    iou: float
    stability: float = 0.9

    @property
    def counts(self) -> str:
        """The mask as compressed COCO RLE."""
        return str(coco_mask.encode(np.asfortranarray(self.mask, np.uint8))["counts"].decode())

    def reply(self) -> dict[str, Any]:
        """Return the mask as the server does."""
        height, width = self.mask.shape
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        return {
            "rle": {"size": [height, width], "counts": self.counts},
            "iou": self.iou,
            "stability": self.stability,
            "area": int(self.mask.sum()),
            "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
            "point": [left + 0.5, top + 0.5],
            "crop": [0, 0, width, height],
        }


def striped_cell(left: int, top: int, *, cell: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """Return a mask of `cell` (height, width) in a picture of `size` (height, width): stripes of 30 rows, 20 apart.

    Made from its runs, because two hundred bitmaps of a large picture take long.
    """
    (rows, columns), (height, width) = cell, size
    column = [30, 20] * (rows // 50)
    column[-1] += height - rows
    runs = [left * height + top, *column * columns]
    runs[-1] = height * width - sum(runs[:-1])
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return {
        "rle": {"size": [height, width], "counts": rle["counts"].decode()},
        "iou": 0.9,
        "stability": 0.9,
        "area": 30 * (rows // 50) * columns,
        "bbox": [left, top, columns, rows - 20],
        "point": [left + 0.5, top + 0.5],
        "crop": [0, 0, width, height],
    }


def lines(masks: Sequence[dict[str, Any]], *, height: int, width: int) -> str:
    """Return the reply in lines: two steps and the result, best first."""
    masks = sorted(masks, key=lambda mask: -float(mask["iou"]))
    result = {"image_id": "a", "width": width, "height": height, "model": "fake", "masks": masks}
    steps = [{"progress": 0.0, "found": 0}, {"progress": 0.5, "found": 3}]
    return "".join(json.dumps(line) + "\n" for line in (*steps, result))
