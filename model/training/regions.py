"""Regions of a photograph as things to click at: one, or neighbours together.

Does not know how regions were found.
"""

import cv2
import numpy as np

from model.training.canvas import SMALLEST, Canvas, Kind
from model.training.pack import Mask, Pixels

MOST = 2
"""Regions noted of one view: few are drawn, and each costs half a millisecond."""

RAGGED = 8.0
"""Of the squared length of an edge, over that of a circle of the same area; a square has 1.3."""


def add_regions(canvas: Canvas, labels: Pixels, rng: np.random.Generator) -> None:
    """Note up to `MOST` regions out of labels (side, side), large ones first choice.

    Regions across the edge of an instance are dropped, because they miss an edge that people saw; so are those
    ragged.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    large = np.flatnonzero(counts >= 2 * SMALLEST * labels.size)
    if not len(large):
        return
    weights = np.sqrt(counts[large])
    drawn = rng.choice(large, min(MOST, len(large)), replace=False, p=weights / weights.sum())
    instances = [candidate.mask for candidate in canvas.candidates]
    for label in drawn:
        region: Mask = labels == label
        if rng.random() < 0.35:
            region = _with_neighbours(region, labels, rng)
        region = cv2.medianBlur(region.view(np.uint8), 5).view(np.bool_)
        if not _is_ragged(region) and not any(_crosses(region, instance) for instance in instances):
            canvas.add(region, Kind.REGION)


def _with_neighbours(region: Mask, labels: Pixels, rng: np.random.Generator) -> Mask:
    """Together with one or two regions that touch it, those with the longest common edge first choice."""
    edge = cv2.dilate(region.view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_) & ~region
    common = np.bincount(labels[edge], minlength=256)
    around = np.flatnonzero(common)
    if not len(around):
        return region
    count = min(int(rng.integers(1, 3)), len(around))
    chosen = rng.choice(around, count, replace=False, p=common[around] / common.sum())
    return region | np.isin(labels, chosen)


def _is_ragged(region: Mask) -> bool:
    """Whether its edge is longer than that of a smooth thing: grass, leaves, what happens to be in focus."""
    lines, _ = cv2.findContours(region.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    edge = sum(cv2.arcLength(line, True) for line in lines)
    return edge**2 > RAGGED * 4 * np.pi * max(int(np.count_nonzero(region)), 1)


def _crosses(region: Mask, instance: Mask) -> bool:
    """Whether a good part of it is in the instance, and a good part outside."""
    common, size = int(np.count_nonzero(region & instance)), int(np.count_nonzero(region))
    return 0.1 * size < common < 0.9 * size
