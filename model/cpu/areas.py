"""Areas of a map, which threads compute apart and draw beside each other. Does not know what the map holds."""

from itertools import product
from threading import Lock
from typing import NamedTuple

from torch import Tensor

MOST_WAIT = 0.05
"""Share of the time that a thread may wait at the end for the areas of others, where smaller areas can avoid it."""


class Area(NamedTuple):
    """Rows and columns of a map."""

    rows: slice
    columns: slice

    def of(self, x: Tensor) -> Tensor:
        """The view (1, h, w, c) of a map."""
        return x[:, self.rows, self.columns]

    def halved(self) -> "Area":
        """The same of a map that is half as high and wide."""
        return Area(*(slice(each.start // 2, each.stop // 2) for each in self))

    @property
    def size(self) -> int:
        """Cells."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)


class Canvas:
    """A map (1, height, width, c) that threads draw area by area."""

    def __init__(self, height: int, width: int, drawn: Tensor | None = None) -> None:
        """It may be drawn already."""
        self._size = height, width
        self._map = drawn
        self._lock = Lock()

    def draw(self, area: Area, part: Tensor) -> None:
        """Write (1, h, w, c) there, or windows (n, side, side, c) that make up the area."""
        if part.shape[:3] == (1, *self._size):
            self._map = part  # all of it: no copy
            return
        with self._lock:
            if self._map is None:
                self._map = part.new_empty(1, *self._size, part.shape[-1])
        place = area.of(self._map)
        if place.shape != part.shape:
            side = part.shape[1]
            place = place.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
            part = part.view(place.shape)
        place.copy_(part)

    @property
    def whole(self) -> Tensor:
        """Once all areas are drawn."""
        assert self._map is not None  # noqa: S101  # for the type checker
        return self._map


def strips_of(height: int, width: int, *, side: int, count: int) -> list[Area]:
    """Divide a map into at most so many areas of whole rows of windows of this side, as equal as may be."""
    return [Area(rows, slice(0, width)) for rows in _cut(height, side, count)]


def areas_of(height: int, width: int, *, side: int, threads: int) -> list[Area]:
    """Divide a map into areas of whole windows of this side, the largest first; for one thread it is one.

    Rows of windows, which are cut into columns only where threads that take one area after the other would wait too
    long for the last one.
    """
    if threads == 1:
        return [Area(slice(0, height), slice(0, width))]
    best, least = list[Area](), float("inf")
    for count in range(1, -(-width // side) + 1):
        areas = [Area(*both) for both in product(_cut(height, side, height), _cut(width, side, count))]
        areas.sort(key=lambda area: area.size, reverse=True)
        wait = 1 - height * width / (threads * _longest(areas, threads))
        if wait < least:
            best, least = areas, wait
        if least <= MOST_WAIT:
            break
    return best


def _cut(length: int, side: int, count: int) -> list[slice]:
    """At most so many slices of whole windows, the last of which may reach over the edge."""
    windows = -(-length // side)
    count = min(count, windows)
    return [
        slice(side * (windows * i // count), min(length, side * (windows * (i + 1) // count)))
        for i in range(count)
    ]


def _longest(areas: list[Area], threads: int) -> int:
    """Cells of the busiest thread, where each takes the next area when it is done with one."""
    loads = [0] * threads
    for area in areas:
        loads[loads.index(min(loads))] += area.size
    return max(loads)
