"""Hiera, the hierarchical vision transformer under SAM 2 (arXiv 2306.00989).

Maps stay (b, h, w, c) inside the trunk, because attention and normalisation want channels last. Parameter
names are those of the released checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.config import HieraConfig
from model.network.layers import Mlp
from model.network.linear import Linear


def partition_windows(x: Tensor, side: int) -> Tensor:
    """Cut (b, h, w, c) into windows (b * n, side, side, c), zero-padded to the right and below."""
    _, h, w, c = x.shape
    if h % side or w % side:  # F.pad copies the map even if there is nothing to pad
        x = F.pad(x, (0, 0, 0, -w % side, 0, -h % side))
    x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # b rows side columns side c
    return x.transpose(2, 3).reshape(-1, side, side, c)


def join_windows(windows: Tensor, *, height: int, width: int) -> Tensor:
    """Undo `partition_windows`: (b * n, side, side, c) to (b, height, width, c), the padding cut off."""
    side, c = windows.shape[2:]
    rows, columns = -(-height // side), -(-width // side)
    x = windows.view(-1, rows, columns, side, side, c).transpose(2, 3)
    return x.reshape(-1, rows * side, columns * side, c)[:, :height, :width].contiguous()


def max_pool_2x2(x: Tensor) -> Tensor:
    """Halve height and width of (b, h, w, c)."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


class MultiScaleAttention(nn.Module):
    """Self-attention over a (b, h, w, c) map. At the start of a stage the queries are pooled 2x2."""

    def __init__(self, dim: int, dim_out: int, *, num_heads: int, pools: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pools = pools
        self.qkv = Linear(dim, dim_out * 3)
        self.proj = Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, dim) to (b, h, w, dim_out), half as high and wide if this block pools."""
        b, h, w, _ = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.pools:
            q = max_pool_2x2(q)
            h, w = h // 2, w // 2
        q, k, v = (
            t.reshape(b, -1, self.num_heads, t.shape[-1] // self.num_heads).transpose(1, 2) for t in (q, k, v)
        )
        x = F.scaled_dot_product_attention(q, k, v)  # b heads h*w c
        return self.proj(x.transpose(1, 2).reshape(b, h, w, -1))


class MultiScaleBlock(nn.Module):
    """One transformer block: attention within windows (or over everything), then a feed-forward layer."""

    def __init__(self, dim: int, dim_out: int, *, num_heads: int, window_size: int, pools: bool) -> None:
        super().__init__()
        self.window_size = window_size  # 0: global attention
        self.pools = pools
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = MultiScaleAttention(dim, dim_out, num_heads=num_heads, pools=pools)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = Mlp(dim_out, dim_out * 4, dim_out, depth=2, activation=F.gelu)
        self.proj = Linear(dim, dim_out) if dim != dim_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, dim) to (b, h, w, dim_out), half as high and wide if this block pools."""
        shortcut, x = x, self.norm1(x)
        if self.proj is not None:
            shortcut = self.proj(x)
            if self.pools:
                shortcut = max_pool_2x2(shortcut)
        x = shortcut + self._attend(x)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        if self.window_size == 0:
            return self.attn(x)
        _, h, w, _ = x.shape
        windows = self.attn(partition_windows(x, self.window_size))
        stride = 2 if self.pools else 1
        return join_windows(windows, height=h // stride, width=w // stride)


class PatchEmbed(nn.Module):
    """Overlapping 7x7 patches, one every four pixels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=7, stride=4, padding=3)

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) to (b, h / 4, w / 4, dim)."""
        return self.proj(images).permute(0, 2, 3, 1)


class Hiera(nn.Module):
    """The trunk: a picture to one feature map per stage."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.stage_ends = config.stage_ends
        self.patch_embed = PatchEmbed(config.embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.embed_dim, *config.position_embedding_size))
        window = config.window_sizes[0]
        self.pos_embed_window = nn.Parameter(torch.zeros(1, config.embed_dim, window, window))
        self.blocks = nn.ModuleList(_blocks(config))
        self._resized_positions: Tensor | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        """(b, 3, s, s) to four maps (b, c, h, w), from s / 4 down to s / 32, channels doubling."""
        x = self.embed(images)
        stages = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.stage_ends:
                stages.append(x.permute(0, 3, 1, 2))
        return stages

    def embed(self, images: Tensor) -> Tensor:
        """(b, 3, s, s) to (b, s / 4, s / 4, c): patches, with their positions added."""
        x = self.patch_embed(images)
        positions = self._resized_positions
        return x + (self.position_embedding(*x.shape[1:3]) if positions is None else positions)

    def fix_size(self, height: int, width: int) -> None:
        """Resize the position embedding once, for pictures of one size and constant weights.

        In the order of patches that were made of a channels-last picture: adding in two orders takes three times
        as long.
        """
        self._resized_positions = self.position_embedding(height, width).contiguous()

    def position_embedding(self, height: int, width: int) -> Tensor:
        """(1, height, width, c): the background, resized, plus the window part, tiled (arXiv 2311.05613).

        Computed in float32, and rounded once to the precision of the patches.
        """
        background = F.interpolate(self.pos_embed.float(), size=(height, width), mode="bicubic")
        side = self.pos_embed_window.shape[-1]
        window = self.pos_embed_window.float().tile(1, 1, height // side, width // side)
        return (background + window).permute(0, 2, 3, 1).to(self.patch_embed.proj.weight.dtype)


def _blocks(config: HieraConfig) -> list[MultiScaleBlock]:
    blocks = []
    dim, num_heads, stage = config.embed_dim, config.num_heads, 0
    for i in range(config.depth):
        # A stage's first block pools and doubles channels and heads, but has the previous stage's window.
        pools = i - 1 in config.stage_ends
        window_size = 0 if i in config.global_attention_blocks else config.window_sizes[stage]
        dim_out = dim
        if pools:
            dim_out, num_heads, stage = dim * 2, num_heads * 2, stage + 1
        blocks.append(
            MultiScaleBlock(dim, dim_out, num_heads=num_heads, window_size=window_size, pools=pools)
        )
        dim = dim_out
    return blocks
