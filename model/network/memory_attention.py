"""Memory attention: a frame's features look at themselves, then at what is remembered of an object.

SAM 2 (arXiv 2408.00714, 4 "Memory attention" and D.1). Objects are a batch; each may remember another number of
frames, so what is looked at is a list.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.config import VideoConfig
from model.network.linear import Linear
from model.network.positions import axial_rotations, rotate, sine_map

POSITION_WEIGHT = 0.1
"""How much of the sine encoding is added to the features."""


class Remembered(NamedTuple):
    """What one object's attention looks at: memories of frames, then object pointers."""

    tokens: Tensor
    """(n, m)."""
    positions: Tensor
    """(n, m): where and when a token is of."""
    num_pointers: int
    """Tokens at the end that are of no cell."""


class RotaryAttention(nn.Module):
    """Attention with one head, whose queries and keys are turned by where they are."""

    def __init__(self, dim: int, *, memory_dim: int) -> None:
        super().__init__()
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(memory_dim, dim)
        self.v_proj = Linear(memory_dim, dim)
        self.out_proj = Linear(dim, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, rotations: Tensor, num_pointers: int = 0) -> Tensor:
        """From q (b, n, c) to k and v (b, m, d); returns (b, n, c). The last `num_pointers` keys are not turned."""
        cells = k.shape[1] - num_pointers
        k = self.k_proj(k)
        k = torch.cat([rotate(k[:, :cells], rotations), k[:, cells:]], dim=1)
        q, v = rotate(self.q_proj(q), rotations), self.v_proj(v)
        x = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])  # one head
        return self.out_proj(x[:, 0])


class MemoryAttentionLayer(nn.Module):
    """To itself, to the memory, and a perceptron; each behind a norm."""

    def __init__(self, dim: int, config: VideoConfig) -> None:
        super().__init__()
        self.self_attn = RotaryAttention(dim, memory_dim=dim)
        self.cross_attn_image = RotaryAttention(dim, memory_dim=config.memory_dim)
        self.linear1 = Linear(dim, config.attention_mlp_dim)
        self.linear2 = Linear(config.attention_mlp_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, remembered: Sequence[Remembered], *, rotations: Tensor) -> Tensor:
        """Features (b or 1, n, c) of b objects and what they remember; returns (b, n, c)."""
        y = self.norm1(x)
        x = x + self.self_attn(y, y, y, rotations=rotations)
        # Up to here the first layer knows of no object: all share one picture.
        x = x.expand(len(remembered), -1, -1)
        x = x + self.recall(self.norm2(x), remembered, rotations=rotations)
        return x + self.linear2(F.relu(self.linear1(self.norm3(x))))

    def recall(self, q: Tensor, remembered: Sequence[Remembered], *, rotations: Tensor) -> Tensor:
        """Cross attention of neighbours that remember equally much is one call."""
        recalled: list[Tensor] = []
        for (_, num_pointers), group in groupby(
            remembered, key=lambda each: (len(each.tokens), each.num_pointers)
        ):
            alike = list(group)
            memory = torch.stack([each.tokens for each in alike])
            placed = memory + torch.stack([each.positions for each in alike])
            start = sum(len(each) for each in recalled)
            recalled.append(
                self.cross_attn_image(
                    q[start : start + len(alike)],
                    placed,
                    memory,
                    rotations=rotations,
                    num_pointers=num_pointers,
                )
            )
        return torch.cat(recalled)


class MemoryAttention(nn.Module):
    """The stack of layers, and a norm."""

    def __init__(self, dim: int, config: VideoConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(dim, config) for _ in range(config.attention_depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, remembered: Sequence[Remembered], *, side: int) -> Tensor:
        """Features (side * side, c) of a frame to those that b objects are sought in: (b, side * side, c)."""
        channels, device = features.shape[1], features.device
        rotations = axial_rotations(side, channels, device=device)
        positions = sine_map(side, channels, device=device).to(features.dtype)
        x = (features + POSITION_WEIGHT * positions)[None]
        for layer in self.layers:
            x = layer(x, remembered, rotations=rotations)
        return self.norm(x)
