"""COCO RLE -> a mask, and a mask -> its runs.

Runs go column by column, the first one background. Knows nothing of replies. The format is that of
cocodataset/cocoapi, common/maskApi.c.
"""

from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

Booleans: TypeAlias = npt.NDArray[np.bool_]
Lengths: TypeAlias = npt.NDArray[np.int64]


class Rle(TypedDict):
    """A mask as COCO writes it; pycocotools.mask.decode takes it where `counts` is the string."""

    size: list[int]
    """Height and width."""
    counts: str | list[int]
    """The compressed string, or the lengths of the runs."""


def decode(rle: Rle) -> Booleans:
    """The mask (height, width), True on the object. Raises ValueError for what is no mask of its size."""
    height, width = rle["size"]
    counts = rle["counts"]
    lengths = _from_string(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    if (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise ValueError(f"this RLE's runs do not add up to a mask of {height} x {width} pixels")
    inside = np.arange(lengths.size) % 2 == 1
    return np.ascontiguousarray(np.repeat(inside, lengths).reshape(width, height).T)


def encode(mask: npt.NDArray[Any]) -> Rle:
    """The runs of a mask (height, width), zero or False on the background, as a list."""
    pixels = mask.astype(bool).ravel(order="F")
    toggles = np.flatnonzero(np.diff(pixels, prepend=False))
    lengths = np.diff(toggles, prepend=0, append=pixels.size)
    return {"size": [mask.shape[0], mask.shape[1]], "counts": lengths.tolist()}


def _from_string(counts: str) -> Lengths:
    """The lengths of a compressed string.

    A number is groups of 5 bits in two's complement, low first, each the character of its value + 48; 0x20 says
    that another group follows. From the fourth run on, the number is the difference to the run two before.
    """
    groups = np.frombuffer(counts.encode("ascii", errors="replace"), np.uint8) - np.uint8(48)
    if not groups.size or not counts.isascii() or (groups > 0x3F).any() or groups[-1] & 0x20:
        raise ValueError("this RLE's counts are cut off or no COCO string")
    ends = np.flatnonzero(groups < 0x20)
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    if int(sizes.max()) > 12:  # 60 bits; more would overflow
        raise ValueError("this RLE's counts hold a number that is too long")
    place = np.arange(groups.size) - np.repeat(starts, sizes)
    numbers = np.add.reduceat((groups & 0x1F).astype(np.int64) << 5 * place, starts)
    numbers -= np.where(groups[ends] & 0x10, np.int64(1) << 5 * sizes, 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
