"""Crops a mask's runs to its box, and puts those of a crop back into the picture, without drawing either.

Does not know about logits.
"""

import numpy as np

from model.masks.runs import Runs


def crop(mask: Runs) -> tuple[Runs, tuple[int, int, int, int]]:
    """Return a mask cropped to its box, and the box: x0, y0, x1, y1 in pixels, x1 and y1 exclusive.

    An empty mask is cropped to the first pixel, because a picture without pixels could not be written.
    """
    left, top, width, height = mask.bbox
    if not width:
        return Runs(1, 1, np.ones(1, dtype=np.int64)), (0, 0, 1, 1)
    ends = np.cumsum(mask.lengths)
    starts = ends[:-1:2]
    columns, rows = np.divmod(starts, mask.height)
    # A run that continues in the next column makes the box as high as the picture; then positions only shift.
    first = (columns - left) * height + rows - top
    toggles = np.stack((first, first + mask.lengths[1::2]), axis=1).ravel()
    # If one run begins where another ends, rows between them were cut off: they are one run now.
    met = np.flatnonzero(toggles[1:] == toggles[:-1])
    toggles = np.delete(toggles, np.concatenate((met, met + 1)))
    if toggles[-1] == height * width:
        toggles = toggles[:-1]
    edges = np.concatenate(([0], toggles, [height * width]))
    return Runs(height, width, edges[1:] - edges[:-1]), (left, top, left + width, top + height)


def uncrop(mask: Runs, corner: tuple[int, int], *, height: int, width: int) -> Runs:
    """Return the mask of a crop, whose first pixel is x, y of the picture, as a mask of the whole picture."""
    left, top = corner
    ends = np.cumsum(mask.lengths)
    starts, ends = ends[:-1:2], ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    # A run that continues in the next column of the crop is one run for each column of a higher picture.
    first, last = starts // mask.height, (ends - 1) // mask.height
    runs_each = last - first + 1
    nth = np.arange(runs_each.sum()) - np.repeat(np.cumsum(runs_each) - runs_each, runs_each)
    column = np.repeat(first, runs_each) + nth
    shift = (column + left) * height + top - column * mask.height
    begins = np.maximum(np.repeat(starts, runs_each), column * mask.height) + shift
    stops = np.minimum(np.repeat(ends, runs_each), (column + 1) * mask.height) + shift
    toggles = np.stack((begins, stops), axis=1).ravel()
    met = np.flatnonzero(toggles[1:] == toggles[:-1])  # of a crop that is as high as the picture
    toggles = np.delete(toggles, np.concatenate((met, met + 1)))
    if toggles.size and toggles[-1] == height * width:
        toggles = toggles[:-1]
    edges = np.concatenate(([0], toggles, [height * width]))
    return Runs(height, width, edges[1:] - edges[:-1])
