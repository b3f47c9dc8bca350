"""COCO RLE -> a mask, and back.

Runs go column by column, the first one background. Does not know about replies. The format is that of
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


def decode(rle: Rle, *, columns: tuple[int, int] | None = None) -> Booleans:
    """The mask (height, width), True on the object; or of it only the columns from the first to before the second.

    Raises ValueError for what is no mask of its size.
    """
    height, width = rle["size"]
    lengths = _lengths(rle)
    ends = np.cumsum(lengths)
    if columns is not None:
        return _columns(ends, *columns, height=height)
    mask = np.zeros((height, width), bool)
    if ends.size > 1:  # an object is small beside its picture, and pixels by column take time
        first, last = int(ends[0]) // height, -(-int(ends[ends.size // 2 * 2 - 1]) // height)
        mask[:, first:last] = _columns(ends, first, last, height=height)
    return mask


def encode(mask: npt.NDArray[Any]) -> Rle:
    """A mask (height, width), zero or False on the background, with its runs as the compressed string."""
    pixels = mask.astype(bool).ravel(order="F")
    toggles = np.flatnonzero(np.diff(pixels, prepend=False))
    lengths = np.diff(toggles, prepend=0, append=pixels.size)
    return {"size": [mask.shape[0], mask.shape[1]], "counts": _to_string(lengths)}


def compress(rle: Rle) -> Rle:
    """The same mask with its runs as the compressed string."""
    return {"size": [*rle["size"]], "counts": _to_string(_lengths(rle))}


def place(rle: Rle, bounds: tuple[int, int, int, int], *, size: tuple[int, int]) -> Rle:
    """A mask of the part x0, y0, x1, y1 of a picture -> that of all of it, `size` (height, width).

    Raises ValueError where the part is not of the mask's size, or not within the picture.
    """
    x0, y0, x1, y1 = bounds
    height, width = size
    if [y1 - y0, x1 - x0] != list(rle["size"]) or min(x0, y0) < 0 or x1 > width or y1 > height:
        raise ValueError(
            f"a mask of height and width {list(rle['size'])} does not fill {list(bounds)} of a picture of "
            f"{width} x {height} pixels"
        )
    whole = np.zeros(size, bool)
    whole[y0:y1, x0:x1] = decode(rle)
    return encode(whole)


def _columns(ends: Lengths, first: int, last: int, *, height: int) -> Booleans:
    """Some columns of the mask whose runs end there."""
    lengths = np.diff(ends.clip(first * height, last * height), prepend=first * height)
    inside = np.arange(lengths.size) % 2 == 1
    return np.ascontiguousarray(np.repeat(inside, lengths).reshape(last - first, height).T)


def _lengths(rle: Rle) -> Lengths:
    """The lengths of the runs. Raises ValueError if they are not a mask of the size."""
    (height, width), counts = rle["size"], rle["counts"]
    lengths = _from_string(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    if (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise ValueError(f"this RLE's runs do not add up to a mask of {height} x {width} pixels")
    return lengths


def _to_string(lengths: Lengths) -> str:
    """What _from_string reads."""
    numbers = lengths.copy()
    numbers[3:] -= lengths[1:-2]
    characters = bytearray()
    for number in numbers.tolist():
        while True:
            group, number = number & 0x1F, number >> 5  # what is left of it
            more = number != (-1 if group & 0x10 else 0)
            characters.append(group + 48 + 0x20 * more)
            if not more:
                break
    return characters.decode("ascii")


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
