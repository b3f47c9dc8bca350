"""Scenes side by side in one picture, for people to look at.

Does not know how they were made.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from model.training.pack import Pixels

COLOURS = ((255, 40, 40), (40, 255, 40), (60, 120, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255))


def contact_sheet(shown: Sequence[tuple[Pixels, npt.NDArray[np.bool_]]], *, columns: int) -> Pixels:
    """Pictures (side, side, 3) with their masks (m, side, side) outlined, each beside itself without."""
    cells = [np.hstack([picture, _outlined(picture, masks)]) for picture, masks in shown]
    empty = np.zeros_like(cells[0])
    cells += [empty] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[row : row + columns]) for row in range(0, len(cells), columns)])


def _outlined(picture: Pixels, masks: npt.NDArray[np.bool_]) -> Pixels:
    drawn = picture.copy()
    for place, mask in enumerate(masks):
        lines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, lines, -1, COLOURS[place % len(COLOURS)], 1)
    return drawn
