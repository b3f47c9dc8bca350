"""The image encoder as it runs on a GPU: the same function as Sam2.encode, to the last bit, with fewer copies.

What a GPU waits for between products is memory. So a map is copied only where an order changes, and where windows
are put back into the map, the residual is added in the same pass.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from model.network.hiera import MultiScaleBlock, partition_windows
from model.network.sam2 import Sam2


class GpuEncoder:
    """Encodes normalised pictures. Keeps no state."""

    def __init__(self, model: Sam2) -> None:
        self._model = model
        self._trunk, self._neck = model.image_encoder.trunk, model.image_encoder.neck
        self._blocks: list[MultiScaleBlock] = list(self._trunk.blocks)  # type: ignore[arg-type]

    def __call__(
        self, images: Tensor, between: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(b, 3, s, s) to image_embed, feat_s0 and feat_s1. `between` is called between the blocks."""
        x = self._trunk.embed(images)
        stages = []
        for i, block in enumerate(self._blocks):
            between()
            x = _run_block(block, x)
            if i in self._trunk.stage_ends:
                stages.append(x.permute(0, 3, 1, 2))
        return self._model.project(*self._neck(stages))


def _run_block(block: MultiScaleBlock, x: Tensor) -> Tensor:
    """As MultiScaleBlock.forward: (b, h, w, dim) to (b, h, w, dim_out), half as high and wide where it pools."""
    shortcut, x = x, block.norm1(x)
    if block.proj is not None:
        shortcut = block.proj(x)
        if block.pools:
            shortcut = _max_pool_2x2(shortcut)
    if block.window_size == 0:
        x = shortcut + _attend(block, x)
    else:
        x = _add_windows(shortcut, _attend(block, partition_windows(x, block.window_size)))
    return x + block.mlp(block.norm2(x))


def _attend(block: MultiScaleBlock, x: Tensor) -> Tensor:
    """As MultiScaleAttention.forward."""
    attention = block.attn
    b, h, w, _ = x.shape
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    if attention.pools:
        q = _max_pool_2x2(q)
        h, w = h // 2, w // 2
    q, k, v = (t.reshape(b, -1, attention.num_heads, t.shape[-1] // attention.num_heads) for t in (q, k, v))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    x = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return attention.proj(x.transpose(1, 2).reshape(b, h, w, -1))


def _add_windows(x: Tensor, windows: Tensor) -> Tensor:
    """X (b, h, w, c) plus windows (b * n, side, side, c) in their places, without what lies beyond its edges."""
    _, h, w, c = x.shape
    side = windows.shape[1]
    rows, columns = -(-h // side), -(-w // side)
    tiles = windows.view(-1, rows, columns, side, side, c).transpose(2, 3)  # b rows side columns side c
    if h % side == 0 and w % side == 0:
        return (x.view(tiles.shape) + tiles).view(x.shape)
    return x + tiles.reshape(-1, rows * side, columns * side, c)[:, :h, :w]


def _max_pool_2x2(x: Tensor) -> Tensor:
    """Halve height and width of (b, h, w, c). Torch's max_pool2d also writes 8 bytes of index for each maximum."""
    return x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).amax((2, 4))
