"""Scales pictures of more than 8 bits a channel to 8.

Does not know about file formats. `eight_bits` is the one place that chooses how values become shades.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from app.codecs.upright import Pixels, Rows, blocks

Samples: TypeAlias = npt.NDArray[Any]
Opacity: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Deep:
    """A picture whose samples are integers or floats of any size.

    `rows(top, bottom)` returns colour, (bottom - top, width, 1 or 3), and opacity from 0 to 1,
    (bottom - top, width, 1), or None if everything is opaque. It is called twice for each block.
    """

    size: tuple[int, int]
    """Width and height."""
    rows: Callable[[int, int], tuple[Samples, Opacity | None]]


def eight_bits(picture: Deep) -> Rows:
    """Return the rows with the smallest finite value as 0 and the largest as 255, over all channels together.

    Pixels that are wholly transparent have no say in the range. A picture of one value becomes black, and so do
    not-a-numbers; infinities become the ends. Opacity is laid over white.
    """
    low, high = _range(picture)
    scale = 255 / (high - low) if high > low else 0.0

    def rows(top: int, bottom: int) -> Pixels:
        values, opacity = picture.rows(top, bottom)
        if not scale:
            shades = np.zeros(values.shape, np.float32)
        else:
            # float32 holds 16 bits exactly, and takes half the time
            precise = np.float32 if values.itemsize <= 2 else np.float64
            with np.errstate(invalid="ignore"):  # casting a signalling not-a-number warns
                shades = (np.clip(values.astype(precise), low, high) - precise(low)) * precise(scale)
            if values.dtype.kind == "f":
                shades = np.nan_to_num(shades, copy=False, nan=0.0)
        if opacity is not None and (opacity < 1).any():
            shades = shades * opacity + 255 * (1 - opacity)
        return np.rint(shades, out=shades).astype(np.uint8)

    return rows


def _range(picture: Deep) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for top, bottom in blocks(picture.size):
        values, opacity = picture.rows(top, bottom)
        if opacity is not None and not (seen := opacity > 0).all():
            values = values[seen[:, :, 0]]
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high
