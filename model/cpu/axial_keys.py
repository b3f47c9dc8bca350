"""Scores of queries against memories of several frames without making the keys, in fewer operations.

A key is R (W m + b): R turns half of the pairs of channels by the column of its cell, half by its row. So a score
q R (W m + b) is the sum of two products with m, which has 64 channels where a key has 256: one with what q, turned
back by a column and multiplied by W, is for all cells of that column; one for the row. These few thousand vectors a
query are made once for all frames, which pays from three frames on. All float32. Does not know about layers.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from model.cpu.apart import run_apart
from model.cpu.long_attention import is_sound

LEAST_MAPS = 3
"""With fewer the products cost as much as keys."""

QUERIES, FEWEST_QUERIES = 512, 128
"""At a time: the scores of 512 against a map take 8 MiB, their vectors 17 MiB. With fewer, products are slower."""


class AxialKeys:
    """A projection to keys of cells of a map, and the rotations of these."""

    def __init__(self, weight: Tensor, bias: Tensor, rotations: Tensor) -> None:
        """`weight` (c, m) and `bias` (c,) make the first of all pairs of channels, then the second of all;
        `rotations` (side * side, c / 2) turn half of the pairs with x, then half with y: see axial_rotations.
        """
        self._side = round(len(rotations) ** 0.5)
        pairs = rotations.shape[1]
        by_cell = rotations.unflatten(0, (self._side, self._side))
        together = torch.cat([weight, bias[:, None]], dim=1).unflatten(0, (2, pairs))  # 2 pairs m+1
        self._with_x = _folded(by_cell[0, :, : pairs // 2], *together[:, : pairs // 2])
        self._with_y = _folded(by_cell[:, 0, pairs // 2 :], *together[:, pairs // 2 :])

    def attend(
        self,
        q: Tensor,
        placed: Tensor,
        values: Tensor,
        others: tuple[Tensor, Tensor],
        between: Callable[[], None],
    ) -> Tensor | None:
        """From turned q (n, c) to the cells of maps, `placed` (maps * side * side, m) with their `values` (.., d),
        and to `others`, keys (k, c) and their values (k, d): (n, d). None where a score is too large for float32.
        """
        cells = torch.cat([placed, placed.new_ones(len(placed), 1)], dim=1)
        by_row = cells.view(-1, self._side, self._side, cells.shape[1])  # maps y x m+1
        by_column = by_row.transpose(1, 2).contiguous()
        maps = list(zip(by_row, by_column, _with_ones(values).split(self._side**2, dim=1), strict=True))
        keys, seen = others[0], _with_ones(others[1])
        some = (q * q.shape[1] ** -0.5).split(_queries_at_a_time(len(q)))
        found = run_apart([partial(self._attend_some, each, maps, (keys, seen)) for each in some], between)
        sound = [each for each in found if each is not None]
        return torch.cat(sound) if len(sound) == len(found) else None

    def _attend_some(
        self,
        q: Tensor,
        maps: list[tuple[Tensor, Tensor, Tensor]],
        others: tuple[Tensor, Tensor],
        between: Callable[[], None],
    ) -> Tensor | None:
        """Values come with a row of ones, (d + 1, k), whose weighted sum is the sum of the weights."""
        x_pairs, y_pairs = q.unflatten(1, (2, 2, -1)).unbind(2)  # n 2 pairs/2
        columns, rows = (
            torch.mm(folded.flatten(0, 1), of_pairs.flatten(1).T).unflatten(0, folded.shape[:2])
            for folded, of_pairs in ((self._with_x, x_pairs), (self._with_y, y_pairs))
        )  # side m+1 n
        between()
        keys, values = others
        sums = values @ torch.mm(keys, q.T).exp_()  # d+1 n
        scores = q.new_empty(self._side, self._side, len(q))
        for by_row, by_column, values in maps:
            torch.bmm(by_row, rows, out=scores)
            scores.transpose(0, 1).baddbmm_(by_column, columns)
            sums.addmm_(values, scores.exp_().flatten(0, 1))
            between()
        sums, totals = sums[:-1], sums[-1]
        return (sums / totals).T if is_sound(sums, totals) else None


def _with_ones(values: Tensor) -> Tensor:
    """(k, d) to (d + 1, k)."""
    return torch.cat([values, values.new_ones(len(values), 1)], dim=1).T.contiguous()


def _queries_at_a_time(count: int) -> int:
    """So that each of torch's threads has some; those of a small map stay together, and operations are divided."""
    if count <= QUERIES:
        return count
    return min(QUERIES, max(FEWEST_QUERIES, -(-count // torch.get_num_threads())))


def _folded(rotations: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """What makes of the two halves of some pairs of a query (2 * p,) its vectors, (side, m + 1, 2 * p).

    `rotations` (side, p), `first` and `second` (p, m + 1).
    """
    cos, sin = rotations.real[..., None], rotations.imag[..., None]
    turned = torch.cat([cos * first - sin * second, sin * first + cos * second], dim=1)  # side 2p m+1
    return turned.transpose(1, 2).contiguous()
