"""The small layers that several boxes of the diagram share."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.linear import Linear


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of a (b, c, h, w) map."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Shape in, shape out: (b, c, h, w). Computed in float32: in float16 the square of 256 is infinite."""
        dtype, x = x.dtype, x.float()
        # Meta's order of operations, kept because attention enlarges rounding (point_tokens.py).
        x = x - x.mean(1, keepdim=True)
        x = x / (x.pow(2).mean(1, keepdim=True) + self.eps).sqrt()
        return (self.weight[:, None, None] * x + self.bias[:, None, None]).to(dtype)


class Tokens(nn.Embedding):
    """Learned tokens."""

    def reset_parameters(self) -> None:
        """Draw them, except on the meta device, where that imports PyTorch's compiler: 2 seconds, 100 MB."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Mlp(nn.Module):
    """Linear layers with an activation between them, none after the last."""

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        *,
        depth: int,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (depth - 1), out_dim]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(dims))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) to (..., out_dim)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than its outer."""

    def __init__(self, dim: int, *, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        inner_dim = dim // downsample_rate
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(self, *, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (b, n, c) to k and v (b, m, c); returns (b, n, c)."""
        q, k, v = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # b heads n c
            for proj, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(x.transpose(1, 2).flatten(2))
