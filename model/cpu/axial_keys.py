"""Scores of queries against memories of several frames without making the keys, in fewer operations.

A key is R (W m + b): R turns half of the pairs of channels by the column of its cell, half by its row. So a score
q R (W m + b) is the sum of two products with m, which has 64 channels where a key has 256: one with what q, turned
back by a column and multiplied by W, is for all cells of that column; one for the row. These few thousand vectors a
query are made once for all frames, which pays from three frames on. All float32. Does not know about layers.
"""

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from model.cpu.apart import run_apart
from model.cpu.long_attention import LOG2_E, is_sound

LEAST_MAPS = 3
"""With fewer the products cost as much as keys."""

QUERIES, TOGETHER = 256, 512
"""At a time, and so many that are not worth waking a thread for."""

SCORES = 2**22
"""At a time: 16 MiB. The vectors of 256 queries take 8 MiB."""


class AxialMemory(NamedTuple):
    """Memories of several maps as products read them, the same for all layers.

    Cells of a row of all maps lie together, and behind each row of a map is a cell of zeros. Without it, the scores
    of a column are powers of two apart, in few sets of the caches, and their product takes a third longer.
    """

    cells: Tensor
    """(side, maps, side + 1, m + 1): y, map, x. Behind what is in memory comes a one, for the bias."""
    values: Tensor
    """(d + 1, side * maps * (side + 1)): a last row of ones, whose weighted sum is the sum of the weights."""

    @classmethod
    def of(cls, placed: Tensor, values: Tensor, *, side: int) -> "AxialMemory":
        """From `placed` (maps * side * side, m) and their `values` (maps * side * side, d)."""
        maps = len(placed) // side**2
        cells = placed.new_zeros(side, maps, side + 1, placed.shape[1] + 1)
        seen = values.new_zeros(values.shape[1] + 1, side, maps, side + 1)
        cells[:, :, :side, :-1] = placed.view(maps, side, side, -1).transpose(0, 1)
        seen[:-1, :, :, :side] = values.view(maps, side, side, -1).permute(3, 1, 0, 2)
        cells[:, :, :side, -1] = 1
        seen[-1, :, :, :side] = 1
        return cls(cells, seen.flatten(1))


class Room(threading.local):
    """Where each thread writes scores and vectors. Memory that is freed and taken again may come as pages that the
    system has cleared: with memory of its own, a block of queries took a third longer beside busy processes.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Memory of this name, with what was written there last."""
        count = math.prod(shape)
        if name not in self._held or len(self._held[name]) < count:
            self._held[name] = torch.empty(count)
        return self._held[name][:count].view(shape)


class AxialKeys:
    """A projection to keys of cells of a map, and the rotations of these."""

    def __init__(self, weight: Tensor, bias: Tensor, rotations: Tensor) -> None:
        """`weight` (c, m) and `bias` (c,) make the first of all pairs of channels, then the second of all;
        `rotations` (side * side, c / 2) turn half of the pairs with x, then half with y: see axial_rotations.
        """
        side, pairs = round(len(rotations) ** 0.5), rotations.shape[1]
        by_cell = rotations.unflatten(0, (side, side))
        together = torch.cat([weight, bias[:, None]], dim=1).unflatten(0, (2, pairs))  # 2 pairs m+1
        self._with_x = _folded(by_cell[0, :, : pairs // 2], *together[:, : pairs // 2])
        self._with_y = _folded(by_cell[:, 0, pairs // 2 :], *together[:, pairs // 2 :])

    def attend(
        self,
        q: Tensor,
        memory: AxialMemory,
        others: tuple[Tensor, Tensor],
        room: Room,
        between: Callable[[], None],
    ) -> Tensor | None:
        """From turned q (n, c) to the cells of maps and to `others`, keys (k, c) and their values (k, d): (n, d).
        None where a score is too large for float32.
        """
        keys, values = others
        seen = torch.cat([values, values.new_ones(len(values), 1)], dim=1).T.contiguous()  # d+1 k
        some = (q * (LOG2_E * q.shape[1] ** -0.5)).split(_queries_at_a_time(len(q)))
        found = run_apart(
            [partial(self._attend_some, each, memory, (keys, seen), room) for each in some], between
        )
        sound = [each for each in found if each is not None]
        return torch.cat(sound) if len(sound) == len(found) else None

    def _attend_some(
        self,
        q: Tensor,
        memory: AxialMemory,
        others: tuple[Tensor, Tensor],
        room: Room,
        between: Callable[[], None],
    ) -> Tensor | None:
        x_pairs, y_pairs = q.unflatten(1, (2, 2, -1)).unbind(2)  # n 2 pairs/2
        columns = _vectors(self._with_x, x_pairs, room.take("columns", *self._with_x.shape[:2], len(q)))
        between()
        rows = _vectors(self._with_y, y_pairs, room.take("rows", *self._with_y.shape[:2], len(q)))
        between()
        keys, values = others
        sums = values @ torch.mm(keys, q.T).exp2_()  # d+1 n
        side, maps, width, _ = memory.cells.shape
        each = -(-side // -(-side * maps * width * len(q) // SCORES))
        parts = (t.split(each) for t in (memory.cells, rows))
        for cells, of_rows, values in zip(
            *parts, memory.values.split(each * maps * width, dim=1), strict=True
        ):
            scores = room.take("scores", len(cells), maps * width, len(q))
            torch.bmm(cells.flatten(1, 2), of_rows, out=scores)
            by_column = scores.view(-1, width, len(q)).transpose(0, 1)[:side]
            by_column.baddbmm_(cells.flatten(0, 1).transpose(0, 1)[:side], columns)
            between()
            sums.addmm_(values, scores.exp2_().flatten(0, 1))
            between()
        sums, totals = sums[:-1], sums[-1]
        return (sums / totals).T if is_sound(sums, totals) else None


def _queries_at_a_time(count: int) -> int:
    """So that all threads have as many. Those of a small map stay together, and operations are divided."""
    if count <= TOGETHER:
        return count
    threads = torch.get_num_threads()
    blocks = threads * -(-count // (threads * QUERIES))
    return 16 * -(-count // (16 * blocks))  # of a product's rows, 16 are in registers


def _vectors(folded: Tensor, pairs: Tensor, out: Tensor) -> Tensor:
    """What `folded` (side, m + 1, 2 * p) makes of pairs (n, 2, p), into `out` (side, m + 1, n)."""
    torch.mm(folded.flatten(0, 1), pairs.flatten(1).T, out=out.flatten(0, 1))
    return out


def _folded(rotations: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """What makes of the two halves of some pairs of a query (2 * p,) its vectors, (side, m + 1, 2 * p).

    `rotations` (side, p), `first` and `second` (p, m + 1).
    """
    cos, sin = rotations.real[..., None], rotations.imag[..., None]
    turned = torch.cat([cos * first - sin * second, sin * first + cos * second], dim=1)  # side 2p m+1
    return turned.transpose(1, 2).contiguous()
