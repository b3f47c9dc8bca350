"""Where to click: grids of points on the whole picture, and on crops of it that are looked at more closely.

Does not know what is found there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Points: TypeAlias = npt.NDArray[np.float64]
"""(n, 2): x, y."""
Box: TypeAlias = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A part of the picture that is embedded on its own, and the clicks on it."""

    box: Box
    layer: int
    """0 for the whole picture; crops of layer i are 2**i a side."""
    points: Points
    """In pixels of the crop."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """How densely to click, by the names of SAM2AutomaticMaskGenerator."""

    points_per_side: int = 32
    crop_n_layers: int = 0
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    points: Sequence[Sequence[float]] | None = None
    """Own clicks, x and y in 0..1 of the picture, instead of the grid. A crop gets those that lie on it."""
    region: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1 in pixels: click only there."""


def point_grid(points_per_side: int) -> Points:
    """(points_per_side**2, 2): the middles of so many squares a side, row by row, in 0..1."""
    half = 1 / (2 * points_per_side)
    side = np.linspace(half, 1 - half, points_per_side)
    x, y = np.meshgrid(side, side)
    return np.stack((x.ravel(), y.ravel()), axis=1)


def points_per_side_of(layer: int, pattern: Pattern) -> int:
    """Points a side of a crop of this layer: fewer the smaller the crops. Raises ValueError if none is left."""
    count = int(pattern.points_per_side / pattern.crop_n_points_downscale_factor**layer)
    if count < 1:
        raise ValueError(
            f"points_per_side {pattern.points_per_side} divided by crop_n_points_downscale_factor "
            f"{pattern.crop_n_points_downscale_factor} leaves no point for crops of layer {layer}"
        )
    return count


def crop_boxes(*, height: int, width: int, layers: int, overlap_ratio: float) -> list[tuple[Box, int]]:
    """Boxes with their layers: the whole, then 2**i x 2**i overlapping crops of each layer i, by x, then by y.

    The overlap of layer 1 is `overlap_ratio` of the shorter side, and half of that with each further layer. A
    picture of a few pixels has fewer crops, because some would hold no pixel.
    """
    boxes = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / count))
        columns, rows = (_intervals(size, count, overlap=overlap) for size in (width, height))
        boxes += [((x0, y0, x1, y1), layer) for (x0, x1), (y0, y1) in product(columns, rows)]
    return boxes


def plan(pattern: Pattern, *, height: int, width: int) -> list[Crop]:
    """The crops of a picture with their points, the whole picture first.

    A region gets the grid that the picture would, and is divided into crops as the picture would. The whole picture
    is embedded all the same, because an object is recognised by what surrounds it. Crops without points are left
    out. Raises ValueError if there are no points at all, or a region without a pixel.
    """
    x0, y0, x1, y1 = region = _pixels_of(pattern.region, height=height, width=width)
    size = np.array((width, height), np.float64)
    own = None if pattern.points is None else np.asarray(pattern.points, np.float64).reshape(-1, 2) * size
    if own is not None and pattern.region is not None:
        own = _within(own, region)
    found = []
    inner = crop_boxes(
        height=y1 - y0, width=x1 - x0, layers=pattern.crop_n_layers, overlap_ratio=pattern.crop_overlap_ratio
    )
    for (left, top, right, bottom), layer in inner:
        box = (left + x0, top + y0, right + x0, bottom + y0)
        if own is None:
            spread = point_grid(points_per_side_of(layer, pattern)) * np.array((right - left, bottom - top))
            points = spread + np.array(box[:2])
        else:
            points = _within(own, box)
        if layer == 0:
            box = (0, 0, width, height)
            points = points if own is None else own
        if len(points):
            found.append(Crop(box, layer, points - np.array(box[:2])))
    if not found:
        raise ValueError("no point is left: none of 'points' lies in the region")
    return found


def _intervals(size: int, count: int, *, overlap: int) -> list[tuple[int, int]]:
    length = math.ceil((overlap * (count - 1) + size) / count)
    starts = [(length - overlap) * i for i in range(count)]
    return [(start, min(start + length, size)) for start in starts if start < size]


def _pixels_of(region: tuple[float, float, float, float] | None, *, height: int, width: int) -> Box:
    """The pixels that a region touches."""
    if region is None:
        return 0, 0, width, height
    x0, y0 = max(0, math.floor(region[0])), max(0, math.floor(region[1]))
    x1, y1 = min(width, math.ceil(region[2])), min(height, math.ceil(region[3]))
    if x0 >= x1 or y0 >= y1:
        raise ValueError(
            f"region {list(region)} holds no pixel of the picture of {width} x {height}: it is x0, y0, x1, y1 with "
            "x0 < x1 and y0 < y1"
        )
    return x0, y0, x1, y1


def _within(points: Points, box: Box) -> Points:
    x0, y0, x1, y1 = box
    inside = (points >= (x0, y0)).all(axis=1) & (points <= (x1, y1)).all(axis=1)
    return points[inside]
