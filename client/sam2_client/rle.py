"""Converts COCO RLE to masks and back.

Runs go column by column, and the first one is background. The format is that of cocodataset/cocoapi,
common/maskApi.c. Does not know about replies.
"""

import operator
from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

Booleans: TypeAlias = npt.NDArray[np.bool_]
Lengths: TypeAlias = npt.NDArray[np.int64]


class Rle(TypedDict):
    """A mask in COCO's format. pycocotools.mask.decode takes it if `counts` is a string or bytes."""

    size: list[int]
    """Height and width."""
    counts: str | bytes | list[int]
    """The compressed string, which pycocotools returns as bytes, or the lengths of the runs."""


def decode(rle: Rle, *, columns: tuple[int, int] | None = None) -> Booleans:
    """Return the mask (height, width), True on the object. With `columns` (first, last), return only those columns;
    last is exclusive.

    Raises ValueError if the RLE is not a mask of its size.
    """
    height, width = rle["size"]
    lengths = _lengths(rle)
    ends = np.cumsum(lengths)
    if columns is not None:
        return _columns(ends, *columns, height=height)
    mask = np.zeros((height, width), bool)
    if ends.size > 1:  # the object is small in its picture, and pixels in column order are slow
        first, last = int(ends[0]) // height, -(-int(ends[ends.size // 2 * 2 - 1]) // height)
        mask[:, first:last] = _columns(ends, first, last, height=height)
    return mask


def encode(mask: npt.NDArray[Any]) -> Rle:
    """Return the RLE, as a compressed string, of a mask (height, width) that is zero or False on the background."""
    pixels = mask.astype(bool).ravel(order="F")
    toggles = np.flatnonzero(np.diff(pixels, prepend=False))
    lengths = np.diff(toggles, prepend=0, append=pixels.size)
    return {"size": [mask.shape[0], mask.shape[1]], "counts": _to_string(lengths)}


def compress(rle: Rle) -> Rle:
    """Return the same mask with its runs as the compressed string."""
    height, width = rle["size"]
    lengths = _lengths(rle)
    return {"size": [operator.index(height), operator.index(width)], "counts": _to_string(lengths)}


def extent(rle: Rle) -> tuple[int, tuple[int, int, int, int]]:
    """Return the number of pixels of a mask, and x, y, width, height of its box; zeros if it is empty.

    Raises ValueError if the RLE is not a mask of its size.
    """
    height, _ = rle["size"]
    ends = np.cumsum(_lengths(rle))
    first, last = ends[:-1:2], ends[1::2] - 1  # pixels of each run of the object
    first, last = first[first <= last], last[first <= last]
    if not first.size:
        return 0, (0, 0, 0, 0)
    x, right = int(first[0]) // height, int(last[-1]) // height
    if (first // height == last // height).all():
        y, bottom = int((first % height).min()), int((last % height).max())
    else:  # a run that goes on in the next column begins at its top
        y, bottom = 0, height - 1
    return int((last - first + 1).sum()), (x, y, right - x + 1, bottom - y + 1)


def place(rle: Rle, bounds: tuple[int, int, int, int], *, size: tuple[int, int]) -> Rle:
    """Return the mask of a whole picture of `size` (height, width) from that of its part x0, y0, x1, y1.

    Takes the time of the part, not of the picture.

    Raises ValueError if the part does not have the mask's size, or is not within the picture.
    """
    x0, y0, x1, y1 = bounds
    height, width = size
    if [y1 - y0, x1 - x0] != list(rle["size"]) or min(x0, y0) < 0 or x1 > width or y1 > height:
        raise ValueError(
            f"a mask of height and width {list(rle['size'])} does not fill {list(bounds)} of a picture of "
            f"{width} x {height} pixels"
        )
    part = np.zeros((x1 - x0, y1 - y0 + 2), bool)  # column by column, with background above and below
    part[:, 1:-1] = decode(rle).T
    columns, rows = np.nonzero(np.diff(part, axis=1))
    toggles = (columns.astype(np.int64) + x0) * height + rows + y0
    # In a part of the whole height, a run may go on in the next column: its end is where that one begins.
    joints = np.flatnonzero(toggles[1:] == toggles[:-1])
    toggles = np.delete(toggles, np.concatenate([joints, joints + 1]))
    toggles = toggles[toggles < height * width]
    lengths = np.diff(toggles, prepend=0, append=height * width)
    return {"size": [height, width], "counts": _to_string(lengths)}


def _columns(ends: Lengths, first: int, last: int, *, height: int) -> Booleans:
    """Return the columns `first` to before `last` of the mask whose runs end at `ends`."""
    lengths = np.diff(ends.clip(first * height, last * height), prepend=first * height)
    inside = np.arange(lengths.size) % 2 == 1
    return np.ascontiguousarray(np.repeat(inside, lengths).reshape(last - first, height).T)


def _lengths(rle: Rle) -> Lengths:
    """Return the lengths of the runs. Raises ValueError if they do not add up to the mask's size."""
    (height, width), counts = rle["size"], rle["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    lengths = _from_string(counts) if isinstance(counts, str) else _from_list(counts)
    if (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise ValueError(f"this RLE's runs do not add up to a mask of {height} x {width} pixels")
    return lengths


def _from_list(counts: list[int]) -> Lengths:
    numbers = np.asarray(counts)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise ValueError("this RLE's counts are not whole numbers")
    return numbers.astype(np.int64)


def _to_string(lengths: Lengths) -> str:
    """Return the compressed string, the inverse of _from_string."""
    numbers = lengths.copy()
    numbers[3:] -= lengths[1:-2]
    characters = bytearray()
    for number in numbers.tolist():
        while True:
            group, number = number & 0x1F, number >> 5  # `number` keeps the remaining bits
            more = number != (-1 if group & 0x10 else 0)
            characters.append(group + 48 + 0x20 * more)
            if not more:
                break
    return characters.decode("ascii")


def _from_string(counts: str) -> Lengths:
    """Return the lengths of the runs in a compressed string.

    A number is in two's complement, in groups of 5 bits, the lowest first. A group is the character with the code
    of its value + 48; the bit 0x20 means that another group follows. From the fourth run on, the number is the
    difference to the run two before.
    """
    groups = np.frombuffer(counts.encode("ascii", errors="replace"), np.uint8) - np.uint8(48)
    if not groups.size or not counts.isascii() or (groups > 0x3F).any() or groups[-1] & 0x20:
        raise ValueError("this RLE's counts are truncated or not a COCO string")
    ends = np.flatnonzero(groups < 0x20)
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    if int(sizes.max()) > 12:  # 60 bits; more would overflow
        raise ValueError("this RLE's counts have a number that is too long")
    place = np.arange(groups.size) - np.repeat(starts, sizes)
    numbers = np.add.reduceat((groups & 0x1F).astype(np.int64) << 5 * place, starts)
    numbers -= np.where(groups[ends] & 0x10, np.int64(1) << 5 * sizes, 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
