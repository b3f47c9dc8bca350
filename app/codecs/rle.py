"""COCO RLE: converts between the run lengths of a mask and the compressed string.

Does not know about pixels, logits or HTTP. Runs go column by column, and the first one is background. Format
and test vectors: cocodataset/cocoapi, common/maskApi.c, rleToString and rleFrString.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Lengths: TypeAlias = npt.NDArray[np.int64]

_MOST_PIXELS = 2**32
"""COCO's lengths have 32 bits."""

_MOST_GROUPS = 7
"""Groups of 5 bits in one number: a difference of two 32-bit lengths has 33 bits and a sign."""


class RleError(ValueError):
    """The RLE is not a mask of its size. The message says what is wrong, and where."""


def encode_counts(lengths: Lengths) -> str:
    """Encode run lengths (n,), each 0..2**32, as the compressed string.

    From the fourth run on, the string has the difference to the run two before. Each number is split into
    groups of 5 bits, low first, in two's complement. A group is the character of its value + 48, plus 0x20 if
    another group follows.
    """
    numbers = lengths.copy()
    numbers[3:] -= lengths[1:-2]
    magnitudes = np.where(numbers < 0, ~numbers, numbers)
    largest = int(magnitudes.max(initial=0))
    most = largest.bit_length() // 5 + 1  # one bit more than the magnitude, for the sign
    groups = np.empty((numbers.size, most), dtype=np.uint8)
    used = np.ones((numbers.size, most), dtype=bool)
    for place in range(most):
        groups[:, place] = ((numbers >> (5 * place)) & 0x1F) + 48
        if place:
            used[:, place] = magnitudes >> (5 * place - 1) > 0
            groups[:, place - 1] += used[:, place] * np.uint8(0x20)
    return groups[used].tobytes().decode("ascii")


def decode_counts(counts: str | list[int], *, height: int, width: int) -> Lengths:
    """Decode a compressed string or a list to run lengths (n,), for a mask of height x width pixels.

    Safe for untrusted input: every number is checked, and time and memory depend on the length of `counts`,
    never on the claimed size. Runs of length 0 are accepted, as in pycocotools.

    Raises:
        RleError: `counts` is not an RLE of height x width pixels.
    """
    if height < 1 or width < 1 or height * width > _MOST_PIXELS:
        raise RleError(f"size: {height} x {width} is not a mask of 1 to 2**32 pixels")
    lengths = (
        _from_string(counts, pixels=height * width)
        if isinstance(counts, str)
        else _from_list(counts, pixels=height * width)
    )
    total = int(lengths.sum())
    if total != height * width:
        raise RleError(
            f"counts: the {lengths.size} runs add up to {total} pixels, but size {height} x {width} has "
            f"{height * width}"
        )
    return lengths


def _from_list(counts: list[int], *, pixels: int) -> Lengths:
    _check_number_of_runs(len(counts), pixels=pixels)
    for place, count in enumerate(counts):
        if type(count) is not int or not 0 <= count <= pixels:  # bool is an int, too
            raise RleError(f"counts: run {place} is {_shown(count)}, not a whole number from 0 to {pixels}")
    return np.array(counts, dtype=np.int64)


def _from_string(counts: str, *, pixels: int) -> Lengths:
    groups = np.frombuffer(counts.encode("ascii", errors="replace"), dtype=np.uint8) - np.uint8(48)
    if not counts.isascii() or (groups > 0x3F).any():  # characters below "0" wrap around to values above 0x3F
        place = next(place for place, character in enumerate(counts) if not "0" <= character <= "o")
        raise RleError(f"counts: character {place} is {counts[place]!r}, not one of '0' to 'o'")
    if not groups.size:
        return np.empty(0, dtype=np.int64)
    if groups[-1] & 0x20:
        raise RleError(f"counts: cut off, character {groups.size - 1} says that another group follows")
    last = groups < 0x20
    _check_number_of_runs(int(np.count_nonzero(last)), pixels=pixels)
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    longest = int(sizes.max())
    if longest > _MOST_GROUPS:
        run = int(np.argmax(sizes > _MOST_GROUPS))
        raise RleError(
            f"counts: run {run}, from character {starts[run]} on, has {sizes[run]} groups of 5 bits; "
            f"{_MOST_GROUPS} hold every length"
        )
    numbers = (groups[starts] & 0x1F).astype(np.int64)
    for place in range(1, longest):
        longer = np.flatnonzero(sizes > place)
        numbers[longer] |= (groups[starts[longer] + place] & 0x1F).astype(np.int64) << 5 * place
    numbers -= np.where(groups[ends] & 0x10, np.int64(1) << 5 * sizes, 0)
    # Differences of valid lengths. Within these limits their sums cannot overflow.
    _check_range(numbers, low=-pixels, high=pixels, what="difference")
    lengths = numbers
    lengths[1::2] = np.cumsum(numbers[1::2])
    lengths[2::2] = np.cumsum(numbers[2::2])
    _check_range(lengths, low=0, high=pixels, what="length")
    return lengths


def _check_number_of_runs(runs: int, *, pixels: int) -> None:
    if runs > pixels + 1:
        raise RleError(f"counts: {runs} runs for {pixels} pixels")


def _check_range(values: Lengths, *, low: int, high: int, what: str) -> None:
    wrong = (values < low) | (values > high)
    if wrong.any():
        run = int(wrong.argmax())
        raise RleError(f"counts: run {run} has the {what} {values[run]}, not one from {low} to {high}")


def _shown(value: object) -> str:
    """Return the value for a message, in bounded length, even if it is an integer with too many digits to print."""
    if type(value) is int and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
