"""The CPU decoder's attention between tokens and cells, with projections of the cells folded into the tokens.

q (W_k x) equals (q W_k) x, and the same holds for values and outputs. Does not know about layers, norms and
upscaling.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from model.cpu.products import times
from model.network.layers import Attention
from model.network.linear import plus_columns_times, softmax_over_rows, transposed_rows_times

HALF_FOLDS = 3
"""How many times the products of projecting those of folding may be in half precision: up to 41 clicks. Measured
on two cores, at 28 and 64 cells a side: 5 to 25 % less time with 10 to 45 clicks, 6 % more with 60."""


@dataclass(slots=True)
class View:
    """The picture for one prompt while it is decoded."""

    rows: Tensor
    """(cells, c)."""
    first: tuple[Tensor, ...]
    """Keys and values of the first layer, (cells, c / 2) each in float32 and (c / 2, cells) in half precision, and
    its queries, (c / 2, cells)."""
    owed: Tensor | None = None
    """(c,): still to be added to every row. The first `write` adds it."""
    placed: Tensor = field(init=False)
    """The rows with their positions added, from the second layer on."""


class CrossAttention:
    """Attention between the n tokens of each of b prompts and a picture's cells, in either direction.

    Tokens of all prompts are processed together, cells one prompt at a time.
    """

    def __init__(self, attention: Attention) -> None:
        self.q, self.k, self.v, self.out = (
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            attention.out_proj,
        )
        self._heads = attention.num_heads
        self._inner = self.q.out_features
        self._scale = (self._inner // self._heads) ** -0.5
        self._q_by_head, self._k_by_head = (
            layer.weight.view(self._heads, -1, layer.in_features) for layer in (self.q, self.k)
        )  # heads d c
        self._v_by_head = self.v.weight.view(self._heads, -1, self.v.in_features).transpose(1, 2)  # heads c d
        self._out_by_head = self.out.weight.unflatten(1, (self._heads, -1)).permute(1, 2, 0)  # heads d c
        self._out_bias_of_a_head = self.out.bias[None, None] / self._heads

    def folds(self, num_tokens: int) -> bool:
        """Whether folding is cheaper than projecting: heads * tokens products against the inner width.

        In half precision it also avoids PyTorch's attention, which is slow there.
        """
        most = self._inner if self.k.weight.dtype == torch.float32 else HALF_FOLDS * self._inner
        return self._heads * num_tokens <= most

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of projected q (n, inner), k and v (m, inner), without out_proj: (n, inner)."""
        q, k, v = (self._split(x)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)

    def first_read(self, q: Tensor, views: Sequence[View]) -> Tensor:
        """What projected q (b, n, inner) take from the cells, projected beforehand: (b, n, inner).

        Two plain products take half the time of PyTorch's attention. They round differently, beyond the
        tolerance of the float32 goldens.
        """
        if q.dtype == torch.float32:
            return torch.stack(
                [self.attend(each, *view.first[:2]) for each, view in zip(q, views, strict=True)]
            )
        mixed = [
            torch.bmm(scores.softmax(2), self._heads_of(view.first[1]).transpose(1, 2))
            for scores, view in zip(self._first_scores(q, views, 0), views, strict=True)
        ]  # heads n d
        return torch.stack(mixed).transpose(1, 2).flatten(2)

    def read(self, q: Tensor, views: Sequence[View]) -> Tensor:
        """What projected q (b, n, inner) take from the cells, k_proj and v_proj folded: (b, n, inner).

        k_proj's bias adds the same to all scores of a token, and the softmax over cells does not see it.
        """
        folded = self._by_prompt(torch.bmm(self._by_head(q * self._scale), self._k_by_head), len(q))
        mixed = torch.stack(
            [
                times(softmax_over_rows(view.placed, each), view.rows.T)
                for each, view in zip(folded, views, strict=True)
            ]
        )  # b heads*n c
        mixed = mixed.unflatten(1, (self._heads, -1)).transpose(0, 1).flatten(1, 2)  # heads b*n c
        return torch.bmm(mixed, self._v_by_head).transpose(0, 1).reshape_as(q) + self.v.bias

    def first_scores(self, k: Tensor, views: Sequence[View]) -> Iterator[Tensor]:
        """Scores (heads, n, cells) of each prompt's cells, projected beforehand, and projected k (b, n, inner)."""
        return self._first_scores(k, views, 2)

    def scores(self, k: Tensor, views: Sequence[View]) -> Iterator[Tensor]:
        """Scores (heads, n, cells) of each prompt's cells and projected k (b, n, inner), q_proj folded."""
        k_by_head = self._by_head(k * self._scale)
        folded = self._by_prompt(torch.bmm(k_by_head, self._q_by_head), len(k))
        bias = torch.bmm(k_by_head, self.q.bias.view(self._heads, -1, 1))
        for view, *each in zip(views, folded, self._by_prompt(bias, len(k)).flatten(1), strict=True):
            yield transposed_rows_times(view.placed, *each).unflatten(0, (self._heads, -1))

    def write(self, scores: Iterable[Tensor], v: Tensor, views: Sequence[View]) -> Iterator[Tensor]:
        """Each prompt's cells, plus what they take from projected v (b, n, inner), out_proj folded: (cells, c).

        A cell's probabilities add up to 1 in each head, so each head's values carry their share of the bias,
        and of `owed`.
        """
        values = torch.baddbmm(self._out_bias_of_a_head, self._by_head(v), self._out_by_head)
        for view, one, each in zip(views, scores, self._by_prompt(values, len(v)), strict=True):
            if view.owed is not None:
                each, view.owed = each + view.owed / self._heads, None
            # Over the middle dimension, because softmax is slow over a last one as short as n.
            yield plus_columns_times(view.rows, one.softmax(1).flatten(0, 1), each)

    def _first_scores(self, x: Tensor, views: Sequence[View], which: int) -> Iterator[Tensor]:
        for each, view in zip(x * self._scale, views, strict=True):
            yield torch.bmm(self._split(each), self._heads_of(view.first[which]))

    def _heads_of(self, projected: Tensor) -> Tensor:
        """(inner, cells) to (heads, inner / heads, cells)."""
        return projected.unflatten(0, (self._heads, -1))

    def _split(self, x: Tensor) -> Tensor:
        """(m, inner) to (heads, m, inner / heads)."""
        return x.view(len(x), self._heads, -1).transpose(0, 1)

    def _by_head(self, x: Tensor) -> Tensor:
        """(b, n, inner) to (heads, b * n, inner / heads)."""
        return self._split(x.flatten(0, 1))

    def _by_prompt(self, x: Tensor, count: int) -> Tensor:
        """(heads, b * n, c) to (b, heads * n, c)."""
        return x.unflatten(1, (count, -1)).transpose(0, 1).flatten(1, 2)
