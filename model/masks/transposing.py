"""A mask's runs row by row, from those column by column, without a picture in between.

Does not know about logits. The cost grows with the number of rows that the outline crosses, not with the area.
"""

import numpy as np

from model.masks.runs import Integers, Runs


def transpose(mask: Runs) -> Runs:
    """Return the mask with rows and columns exchanged: its lengths are those of `mask`, row by row."""
    height, width = mask.height, mask.width
    toggles = np.cumsum(mask.lengths)
    if toggles.size % 2:  # the last run is background, so no object ends where it does
        toggles = toggles[:-1]
    # Where a pixel differs from its left neighbour: the mask against itself, moved by one column. Beyond the last
    # column is background.
    borders = _without_pairs(np.concatenate((toggles, toggles + height)))
    pixels = _all_from_to(borders[::2], borders[1::2])
    columns, rows = np.divmod(pixels, height)
    # A run that reaches the right side and goes on in the next row ends and begins at the same place.
    turned = _without_pairs(rows * width + columns)
    if turned.size and turned[-1] == height * width:
        turned = turned[:-1]
    edges = np.concatenate(([0], turned, [height * width]))
    return Runs(width, height, edges[1:] - edges[:-1])


def _without_pairs(places: Integers) -> Integers:
    """Return the places in order, once each, without those that occur an even number of times."""
    places, times = np.unique(places, return_counts=True)
    return places[times % 2 == 1]


def _all_from_to(starts: Integers, ends: Integers) -> Integers:
    """Return all integers of the ranges from `starts` (n,) to `ends` (n,), exclusive."""
    sizes = ends - starts
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())
