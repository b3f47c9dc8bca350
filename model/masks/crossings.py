"""Segments that cross or touch others. Does not know what they are part of."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

_PAIRS = 2**17
"""Pairs of segments that are compared at a time."""
_SQUARES = 8
"""Squares of the grid that a segment is entered in at most, on average."""
_NOUGHT = 1e-9
"""What counts as zero among areas of coordinates that have two decimals."""


def crossing(begins: Points, ends: Points, suspects: Booleans) -> Booleans:
    """Tell which segments from (n, 2) to (n, 2), none of length 0, cross or touch another; True (n,) for those.

    Only pairs with one of `suspects` (n,) at least are looked at. Segments that share an end may only lie on each
    other.
    """
    found = np.zeros(len(begins), dtype=bool)
    for one, other in _near(np.minimum(begins, ends), np.maximum(begins, ends)):
        asked = suspects[one] | suspects[other]
        one, other = one[asked], other[asked]
        a, b, c, d = begins[one], ends[one], begins[other], ends[other]
        meet = _apart(a, b, c, d) & _apart(c, d, a, b)
        for joint, left, same, right in ((a, b, c, d), (a, b, d, c), (b, a, c, d), (b, a, d, c)):
            level = np.abs(_cross(left - joint, right - joint)) <= _NOUGHT
            onward = ((left - joint) * (right - joint)).sum(axis=1) > 0
            meet = np.where((joint == same).all(axis=1), level & onward, meet)
        found[one[meet]] = found[other[meet]] = True
    return found


def _apart(a: Points, b: Points, c: Points, d: Points) -> Booleans:
    """Whether c and d are not both on one side of the line through a and b."""
    along = b - a
    left, right = _cross(along, c - a), _cross(along, d - a)
    return ~(((left > _NOUGHT) & (right > _NOUGHT)) | ((left < -_NOUGHT) & (right < -_NOUGHT)))


def _cross(a: Points, b: Points) -> Points:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def _near(low: Points, high: Points) -> Iterator[tuple[Integers, Integers]]:
    """Yield pairs of boxes, from corners (n, 2) to (n, 2), that have a point in common; some more than once.

    Boxes are entered in the squares of a grid, and those of one square are compared.
    """
    if len(low) < 2:
        return
    side = max(1.0, float((high - low).mean()) * 2)
    while True:
        first, last = np.floor(low / side).astype(np.int64), np.floor(high / side).astype(np.int64)
        if (last - first + 1).prod(axis=1).sum() <= _SQUARES * len(low):
            break
        side *= 2
    columns, rows = (last - first + 1).T
    box, nth = _counted(columns * rows)
    x, y = first[box, 0] + nth % columns[box], first[box, 1] + nth // columns[box]
    square = y * (last[:, 0].max() - first[:, 0].min() + 1) + x
    order = np.argsort(square, kind="stable")
    box, square = box[order], square[order]
    after = np.searchsorted(square, square, side="right") - np.arange(len(square)) - 1
    total = np.cumsum(after)
    for begin, end in _runs(total):
        place, nth = _counted(after[begin:end])
        one, other = box[begin + place], box[begin + place + nth + 1]
        meet = ((low[one] <= high[other]) & (low[other] <= high[one])).all(axis=1)
        yield one[meet], other[meet]


def _counted(numbers: Integers) -> tuple[Integers, Integers]:
    """For each thing as many entries as its number says: which thing it is of, and the how manieth."""
    thing = np.repeat(np.arange(len(numbers)), numbers)
    return thing, np.arange(len(thing)) - np.repeat(np.cumsum(numbers) - numbers, numbers)


def _runs(total: Integers) -> Iterator[tuple[int, int]]:
    """Divide things, of which `total` pairs come up to each, into runs of about _PAIRS."""
    begin = 0
    while begin < len(total):
        so_far = int(total[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, so_far + _PAIRS, side="right")))
        yield begin, end
        begin = end
