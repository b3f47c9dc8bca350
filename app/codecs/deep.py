"""Scales pictures of more than 8 bits a channel to 8.

Does not know about file formats. `eight_bits` is the one place that chooses how values become shades.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from app.codecs.upright import Pixels, Rows, blocks

Samples: TypeAlias = npt.NDArray[Any]
Opacity: TypeAlias = npt.NDArray[np.float32]
Stretch: TypeAlias = Literal["range", "percentile", "none"]
"""How the values of a picture of more than 8 bits become shades; see eight_bits."""

_BEYOND = 0.001
_SAMPLED = 4_000_000
"""About as many values decide on percentiles; sorting them takes a quarter of a second."""
_NO_DATA = {-9999, -99999, -999, -32767, -32768}
_HUGE = 1e30  # floats use the ends of their range
_MOST_KINDS_OF_NO_DATA = 4


@dataclass(frozen=True, slots=True, eq=False)
class Deep:
    """A picture whose samples are integers or floats of any size.

    `rows(top, bottom)` returns colour, (bottom - top, width, 1 or 3), and opacity from 0 to 1,
    (bottom - top, width, 1), or None if everything is opaque. It is called twice for each block.
    """

    size: tuple[int, int]
    """Width and height."""
    rows: Callable[[int, int], tuple[Samples, Opacity | None]]
    full: float = 65535.0
    """The largest value that the type of the samples has; 1 for floats."""
    no_data: float | None = None
    """The value that the file has where nothing was measured."""


def eight_bits(picture: Deep, stretch: Stretch) -> Rows:
    """Return the rows in 8 bits, opacity laid over white.

    `range`: the smallest finite value becomes 0 and the largest 255, over all channels together. `percentile`:
    0.1 % of the values lie below what becomes 0, and as many above what becomes 255; values that commonly stand for
    "no data" and lie far from all others have no say. `none`: 0 becomes 0, and the largest value of the type, 1 for
    floats, becomes 255. In the first two, wholly transparent pixels and the file's own value for "no data" have no
    say.

    A picture of one value becomes black, and so do not-a-numbers; infinities become the ends.
    """
    low, high = _ENDS[stretch](picture)
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
        values = _seen(picture, top, bottom)
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high


def _percentiles(picture: Deep) -> tuple[float, float]:
    width, height = picture.size
    channels = picture.rows(0, 1)[0].shape[2]
    step = max(1, width * height * channels // _SAMPLED)
    while math.gcd(step, width * channels) > 1:  # else some columns or channels would never be looked at
        step += 1
    pieces = [_seen(picture, top, bottom).ravel()[::step] for top, bottom in blocks(picture.size)]
    values = np.sort(np.concatenate(pieces))
    known = _NO_DATA
    if values.dtype.kind in "iu":  # the ends of the type too, but for 0, which is black
        known = known | ({np.iinfo(values.dtype).min, np.iinfo(values.dtype).max} - {0})
    for _ in range(_MOST_KINDS_OF_NO_DATA):
        rest = _without_no_data(values, known)
        if rest.size == values.size:
            break
        values = rest
    if not values.size:
        return 0.0, 0.0
    ends = np.quantile(values, (_BEYOND, 1 - _BEYOND), method="nearest")
    return float(ends[0]), float(ends[1])


def _without_no_data(values: Samples, known: set[int]) -> Samples:
    """Return sorted values without the smallest or the largest if it stands for "no data".

    That is: a value that is commonly used for it, and farther from the others than these are from each other.
    """
    for end, rest in (
        (values[:1], values[np.searchsorted(values, values[:1], "right")[0] :] if values.size else values),
        (values[-1:], values[: np.searchsorted(values, values[-1:], "left")[0]] if values.size else values),
    ):
        if not rest.size or float(rest[0]) == float(rest[-1]):
            continue
        value, nearest = float(end[0]), float(rest[0] if end[0] < rest[0] else rest[-1])
        spread = float(rest[-1]) - float(rest[0])
        if (value in known or abs(value) > _HUGE) and abs(nearest - value) > spread:
            return rest
    return values


def _seen(picture: Deep, top: int, bottom: int) -> Samples:
    """Return the values of these rows that have a say, as (rows, columns, channels) or in one dimension."""
    values, opacity = picture.rows(top, bottom)
    if opacity is not None:
        values = values[(opacity > 0)[:, :, 0]]
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    return values if picture.no_data is None else values[values != picture.no_data]


_ENDS: dict[Stretch, Callable[[Deep], tuple[float, float]]] = {
    "range": _range,
    "percentile": _percentiles,
    "none": lambda picture: (0.0, picture.full),
}
