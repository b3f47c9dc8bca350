"""The CPU encoder's attention: heads of a window or of the whole map. Does not know about maps and layers.

Where the CPU has matrix tiles (AMX), PyTorch's kernel is the fastest. On others it takes three times as long in
bfloat16 as the same products done one by one, because it does not use their bfloat16 instructions. In float32 it is
the fastest everywhere, and its bits are Meta's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PRODUCT_QUERIES = 128
"""Queries of one head in a product, for each thread: their scores against 4096 keys take 1 MiB, and stay in its
cache."""

KERNEL_QUERIES = 2048
"""Queries of one head in a call of PyTorch's kernel. Its blocks are of 256, and smaller with less than 768. Each
call rearranges keys and values: with 1024 queries two threads take a tenth longer."""

MOST_SCORES = 2**20
"""Scores of windows in one product."""


def prefers_products() -> bool:
    """Whether this CPU attends faster by products than by PyTorch's kernel, in bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


class Attention:
    """Attends from q (windows, heads, n, d) to k and v (windows, heads, m, d); returns (windows, n, heads, d).

    `between` is called every few milliseconds.
    """

    def __init__(self, *, by_products: bool) -> None:
        self._by_products = by_products

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, between: Callable[[], None]) -> Tensor:
        """See the class."""
        windows, heads, n, d = q.shape
        if windows == 1:
            out = q.new_empty(1, n, heads, d)
            attend = self._everywhere_by_products if self._by_products else _everywhere
            attend(q[0], k[0], v[0], out[0].transpose(0, 1), between)
            return out
        each = max(1, MOST_SCORES // (heads * n * k.shape[2]))
        attend_windows = _windows_by_products if self._by_products else F.scaled_dot_product_attention
        if each >= windows:  # PyTorch's kernel leaves the heads of a query beside each other already
            out = attend_windows(q, k, v).transpose(1, 2).contiguous()
            between()
            return out
        out = q.new_empty(windows, n, heads, d)
        for part, *qkv in zip(*(t.split(each) for t in (out, q, k, v)), strict=True):
            part.copy_(attend_windows(*qkv).transpose(1, 2))
            between()
        return out

    def _everywhere_by_products(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, between: Callable[[], None]
    ) -> None:
        queries = PRODUCT_QUERIES * torch.get_num_threads()
        unused = q.new_empty(1)
        for head in zip(q, k.contiguous(), v.contiguous(), out, strict=True):
            one_q, one_k, one_v, one_out = head
            for part, place in zip(one_q.split(queries), one_out.split(queries), strict=True):
                # The scale is applied before the scores are rounded.
                scores = torch.addmm(unused, part, one_k.T, beta=0, alpha=part.shape[1] ** -0.5)
                place.copy_(torch.mm(scores.softmax(1), one_v))
                between()


def _everywhere(q: Tensor, k: Tensor, v: Tensor, out: Tensor, between: Callable[[], None]) -> None:
    # A block of 256 queries of a head is one task of one thread.
    heads = max(1, torch.get_num_threads() * 256 // KERNEL_QUERIES)
    for some_q, some_k, some_v, some_out in zip(*(t.split(heads) for t in (q, k, v, out)), strict=True):
        parts = zip(some_q.split(KERNEL_QUERIES, 1), some_out.split(KERNEL_QUERIES, 1), strict=True)
        for part, place in parts:
            place.copy_(F.scaled_dot_product_attention(part[None], some_k[None], some_v[None])[0])
            between()


def _windows_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    shape = q.shape
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=q.shape[2] ** -0.5)
    return torch.bmm(scores.softmax(2), v).view(shape)
