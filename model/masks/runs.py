"""Low-resolution mask logits to the mask at the picture's own size: runs, area, box.

Does not know about the network, COCO's string form or HTTP, and needs no torch.

A mask is `logits > 0` after bilinear upsampling (align_corners=False), but that picture is never computed.
Between values of one sign, interpolation cannot change sign. So only those cells of the low-resolution grid are
looked at whose four corners differ in sign, and in each of their columns only the row where the mask begins or
ends. The cost grows with the length of the outline at full size, not with the area.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]
Booleans: TypeAlias = npt.NDArray[np.bool_]
Ring: TypeAlias = npt.NDArray[np.float64]

_LARGEST = 1e30
"""Logits are clipped to +-this, so that no product or sum overflows."""

_SLAB = 1 << 15
"""Values processed at once: a few arrays of this length fit into a core's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """A mask in COCO's form: the lengths of its runs, column by column, background and object alternating."""

    height: int
    width: int
    lengths: Integers
    """(n,), the first run background (0 where the mask holds the first pixel), sum = height * width."""

    @classmethod
    def from_array(cls, mask_hw: npt.NDArray[np.bool_ | np.uint8]) -> "Runs":
        """The runs of a mask (height, width) of zeros and ones."""
        height, width = mask_hw.shape
        pixels = mask_hw.astype(bool).ravel(order="F")
        before = np.concatenate(([False], pixels[:-1]))
        return cls._between(np.flatnonzero(pixels != before), height=height, width=width)

    @classmethod
    def _between(cls, toggles: Integers, *, height: int, width: int) -> "Runs":
        """The runs between ascending column-major positions at which background and object take turns."""
        edges = np.concatenate(([0], toggles, [height * width]))
        return cls(height, width, edges[1:] - edges[:-1])

    @property
    def area(self) -> int:
        """Pixels of the object."""
        return int(self.lengths[1::2].sum())

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """COCO's x, y, width, height in whole pixels; all zeros for an empty mask."""
        ends = np.cumsum(self.lengths)
        firsts, lasts = ends[:-1:2], ends[1::2] - 1
        if not (firsts <= lasts).all():  # a client's RLE may hold object runs of length 0
            firsts, lasts = firsts[firsts <= lasts], lasts[firsts <= lasts]
        if not firsts.size:
            return 0, 0, 0, 0
        left, right = int(firsts[0]) // self.height, int(lasts[-1]) // self.height
        first_rows, last_rows = firsts % self.height, lasts % self.height
        if (lasts - firsts != last_rows - first_rows).any():  # a run continues from one column into the next
            top, bottom = 0, self.height - 1
        else:
            top, bottom = int(first_rows.min()), int(last_rows.max())
        return left, top, right - left + 1, bottom - top + 1

    def to_array(self) -> Booleans:
        """The mask (height, width), True on the object; in memory column by column."""
        inside = np.arange(self.lengths.size) % 2 == 1
        return np.repeat(inside, self.lengths).reshape(self.width, self.height).T


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """How one side of the picture samples one side of the logits, in torch's own float32 arithmetic."""

    scale: float
    """Low-resolution samples per pixel, a float32 value."""
    sources: Floats
    """(size,): where pixels lie between the samples: torch's area_pixel_compute_source_index."""
    starts: Integers
    """(samples + 1,): the first pixel that lies at or after each sample; the last entry is the size."""


def runs(logits_hw: Floats, *, height: int, width: int) -> Runs:
    """The mask of one map of logits (h, w) at a picture's size: bilinear upsampling, then > 0, as runs.

    The pixels are those of `torch.nn.functional.interpolate(mode="bilinear", align_corners=False) > 0`, down-
    and upsampled. They may differ where the interpolated value is zero within rounding, on a processor without
    fused multiply-add, and for values below 1e-42, whose products underflow. NaN counts as background;
    infinities and values beyond +-1e30 count as +-1e30.

    Raises:
        ValueError: the logits are not a map of at least one value, or a side of the picture is below 1.
    """
    padded = _padded(logits_hw, height=height, width=width)
    rows, columns = axis(padded.shape[0] - 2, height), axis(padded.shape[1] - 1, width)
    toggles, _ = _toggles(padded, rows, columns, height=height)
    toggles.sort()
    # Two toggles at one place cancel: a run that goes on from one column into the next, or low-resolution cells
    # without a pixel of their own.
    last_of_equals = np.flatnonzero(np.append(toggles[1:] != toggles[:-1], True))
    if last_of_equals.size < toggles.size:
        counts = np.diff(last_of_equals, prepend=-1)
        toggles = toggles[last_of_equals[counts % 2 == 1]]
    if toggles.size and toggles[-1] == height * width:
        toggles = toggles[:-1]
    return Runs._between(toggles, height=height, width=width)


def finite(logits_hw: Floats) -> Floats:
    """The logits with NaN as background, and infinities and values beyond +-1e30 as +-1e30."""
    if logits_hw.min() >= -_LARGEST and logits_hw.max() <= _LARGEST:  # false for NaN, too
        return logits_hw
    return np.clip(np.where(np.isnan(logits_hw), -_LARGEST, logits_hw), -_LARGEST, _LARGEST)


def area(logits_hw: Floats, *, height: int, width: int) -> int:
    """The area of what `runs` returns, in three quarters of its time. Errors as in `runs`."""
    padded = _padded(logits_hw, height=height, width=width)
    rows, columns = axis(padded.shape[0] - 2, height), axis(padded.shape[1] - 1, width)
    toggles, is_end = _toggles(padded, rows, columns, height=height)
    # Every column toggles on as often as off, so the pixels between are the sum of ends less that of beginnings.
    return int(2 * toggles[is_end].sum() - toggles.sum())


def stability(logits_hw: Floats, *, offset: float = 1.0) -> float:
    """The stability of a mask: the IoU of `logits > offset` and `logits > -offset`, 0..1.

    1.0 if both are empty. From Meta's sam2/modeling/sam/mask_decoder.py, at low resolution.
    """
    union = np.count_nonzero(logits_hw > -offset)
    return np.count_nonzero(logits_hw > offset) / union if union else 1.0


def _padded(logits_hw: Floats, *, height: int, width: int) -> Floats:
    """The logits with background above and below, and the last column twice, as the last pixels see it."""
    if logits_hw.ndim != 2 or not logits_hw.size:
        raise ValueError(f"logits must be a map (h, w) of at least one value, not of shape {logits_hw.shape}")
    if height < 1 or width < 1:
        raise ValueError(f"a picture has at least one pixel, not height {height} and width {width}")
    h, w = logits_hw.shape
    padded = np.full((h + 2, w + 1), -1, dtype=np.float32)
    padded[1:-1, :-1] = finite(logits_hw)
    padded[1:-1, -1] = padded[1:-1, -2]
    return padded


@lru_cache(maxsize=64)
def axis(samples: int, size: int) -> Axis:
    """The axis of `size` pixels over `samples` logits; the three masks of a click, and all clicks, share it."""
    scale = float(np.float32(samples) / np.float32(size))
    # Multiplied and subtracted with one rounding, like the fused instruction that compilers emit.
    sources = np.maximum((scale * (np.arange(size) + 0.5) - 0.5).astype(np.float32), np.float32(0))
    starts = np.searchsorted(sources, np.arange(samples + 1, dtype=np.float32))
    starts[-1] = size
    for table in (sources, starts):
        table.flags.writeable = False
    return Axis(scale, sources, starts)


def _toggles(padded: Floats, rows: Axis, columns: Axis, *, height: int) -> tuple[Integers, Booleans]:
    """Return column-major positions where the mask changes, unordered, and whether it ends there.

    A position counts as often as it occurs.

    The background above and below the logits makes a column that begins inside toggle at its first pixel, and
    one that ends inside toggle after its last.
    """
    cells = _mixed_cells(padded)
    flat, stride = padded.ravel(), padded.shape[1]
    above, left = np.divmod(cells, stride)
    top_left, top_right = flat[cells], flat[cells + 1]
    bottom_left, bottom_right = flat[cells + stride], flat[cells + stride + 1]
    first = columns.starts[left]
    count = columns.starts[left + 1] - first
    from_left = left.astype(np.float32)

    found, ends = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.bool_)]
    widest = int(count.max(initial=0))  # 0 if no cell has a pixel column of its own
    step = max(1, _SLAB // max(1, cells.size))
    for begin in range(0, widest, step):
        # (step, cells): the pixel columns of every cell side by side, so that each operation runs over all cells.
        nth = np.arange(begin, min(begin + step, widest))[:, np.newaxis]
        column = first + nth
        right_weight = columns.sources[np.minimum(column, columns.sources.size - 1)] - from_left
        top = _interpolate(top_left, top_right, right_weight)
        bottom = _interpolate(bottom_left, bottom_right, right_weight)
        crossing = np.flatnonzero(((top > 0) != (bottom > 0)) & (nth < count))
        upper = top.ravel()[crossing]
        row = _crossing_rows(
            upper, bottom.ravel()[crossing], above[crossing % cells.size], rows, height=height
        )
        found.append(column.ravel()[crossing] * height + row)
        ends.append(upper > 0)
    return np.concatenate(found), np.concatenate(ends)


def _mixed_cells(padded: Floats) -> Integers:
    """Flat indices of the upper left corners of those cells whose corners are not all of one sign."""
    stride = padded.shape[1]
    inside = padded.ravel() > 0
    either = inside[:-1] | inside[1:]
    both = inside[:-1] & inside[1:]
    mixed = (either[:-stride] | either[stride:]) ^ (both[:-stride] & both[stride:])
    mixed[stride - 1 :: stride] = False  # from the end of one line of logits to the start of the next
    return np.flatnonzero(mixed)


def _crossing_rows(top: Floats, bottom: Floats, above: Integers, rows: Axis, *, height: int) -> Integers:
    """The first pixel row with the lower value's sign, for values of opposite sign in lines `above`, `above` + 1.

    Rounding keeps order, so the interpolated values within a cell only rise or only fall, and there is one such
    row. Real arithmetic finds it. Only if the result is within float32's rounding of a whole row, torch's own
    numbers decide between that row and the next. That rounding is below 3 * 2**-24 of a position among the
    logits; 1e-6 is ample.
    """
    samples = rows.starts.size - 1
    low = np.concatenate(([0], rows.starts[: samples - 1], [height]))[above]
    high = np.concatenate(([0], rows.starts[1:samples], [height]))[above]
    top_exact = top.astype(np.float64)
    zero = (above - 0.5 + top_exact / (top_exact - bottom)) / rows.scale - 0.5
    after = np.ceil(zero)
    rounding = 1e-6 * (height + height / samples)
    row = after.astype(np.int64)
    doubtful = np.flatnonzero(np.abs(after - zero - 0.5) > 0.5 - rounding)
    if doubtful.size:
        top, bottom = top[doubtful], bottom[doubtful]
        nearest = np.clip(np.rint(zero[doubtful]).astype(np.int64), 0, height - 1)
        weight = rows.sources[nearest] - (above[doubtful] - 1).astype(np.float32)
        row[doubtful] = nearest + ((_interpolate(top, bottom, weight) > 0) != (bottom > 0))
    return np.clip(row, low, high)


def _interpolate(first: Floats, second: Floats, second_weight: Floats) -> Floats:
    """Weigh two values as torch's kernel does: the first product is fused with the sum, rounded once."""
    first_weight = (np.float32(1) - second_weight).astype(np.float64)
    return (first_weight * first + second_weight * second).astype(np.float32)
