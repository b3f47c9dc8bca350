"""Attention of thousands of queries to tens of thousands of keys, with values that are projected afterwards.

Weights of attention sum to one, so softmax(q k) (m W + b) is (softmax(q k) m) W + b: with memories of 64 channels
and a head of 256, that saves three eighths of the work. Knows nothing of frames and memories.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BLOCK = 1024
"""Queries and keys at a time on a CPU: their products, 4 MiB, stay in a core's cache."""


def attend_with_projected_values(q: Tensor, k: Tensor, values: Tensor, projection: nn.Module) -> Tensor:
    """From q (b, n, c) to k (b, m, c) and values (b, m, d), which `projection` makes c channels of: (b, n, c)."""
    narrow = values.shape[2] < k.shape[2]
    if narrow and q.device.type == "cpu" and q.dtype == torch.float32:
        return projection(torch.stack([_attend(*each) for each in zip(q, k, values, strict=True)]))
    # PyTorch's kernels ask for values as wide as the keys. In half precision they beat `_attend` all the same.
    return F.scaled_dot_product_attention(q[:, None], k[:, None], projection(values)[:, None])[:, 0]


def _attend(q: Tensor, k: Tensor, values: Tensor) -> Tensor:
    """One object: (n, c), (m, c) and (m, d) to (n, d), block by block (FlashAttention, arXiv 2205.14135)."""
    width = values.shape[1]
    counted = torch.cat(
        [values, values.new_ones(len(values), 1)], dim=1
    )  # the last column sums up the weights
    out = torch.empty(len(q), width, dtype=q.dtype)
    scale = q.shape[1] ** -0.5
    for start in range(0, len(q), _BLOCK):
        rows = q[start : start + _BLOCK] * scale
        most = rows.new_full((len(rows), 1), -torch.inf)
        sums = rows.new_zeros(len(rows), width + 1)
        for keys, block in zip(k.split(_BLOCK), counted.split(_BLOCK), strict=True):
            scores = rows @ keys.T
            higher = torch.maximum(most, scores.amax(1, keepdim=True))
            sums.mul_((most - higher).exp_()).addmm_(scores.sub_(higher).exp_(), block)
            most = higher
        torch.div(sums[:, :width], sums[:, width:], out=out[start : start + len(rows)])
    return out
