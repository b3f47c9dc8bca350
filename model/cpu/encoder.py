"""The image encoder for CPUs: the same function as network/image_encoder.py with fewer copies, and in slices.

- The first two stages run in window order: what a block leaves of a window, half as wide where it pools, is a
  window of the next block. So some windows at a time go through all of these blocks, and stay in the caches.
- Rows that windows are padded with go through no layer: a linear layer makes its bias of them.
- In bfloat16 attention is done in the way that this CPU does fastest (attention.py), weights are packed
  (packed.py), and what follows the neck is folded into it (folded_neck.py).
- An encoder in float32 before a decoder in bfloat16, as the built-in model has, keeps its maps and norms in
  float32, and multiplies in bfloat16.

Where the decoder is in float32 too, all sums are those of the plain encoder, to the last bit: golden numbers need
that.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from model.cpu.attention import Attention, prefers_products
from model.cpu.folded_neck import FoldedNeck
from model.cpu.packed import can_pack, pack
from model.cpu.packed_exact import can_pack_exactly, pack_exactly
from model.network.hiera import MultiScaleBlock, join_windows, partition_windows
from model.network.linear import MIN_ROWS
from model.network.sam2 import Sam2

WINDOWS = 128
"""Windows of 8 x 8 that go through the first blocks together; MIN_ROWS rows are left of them in the last block."""

SLICE_OPERATIONS = 2.5e9
"""Of a product between two calls of `between`: 6 ms on two cores in bfloat16, 10 ms in float32."""

TILES_GAIN = 2
"""With matrix tiles (AMX) a slice in bfloat16 has so many times the operations, and takes 4 ms: the larger the
products are, the more two threads gain."""

_Between = Callable[[], None]


class CpuEncoder:
    """Encodes one picture at a time, because a batch takes as long as its pictures one by one.

    Takes over the image encoder of its model, whose weights it may pack.
    """

    def __init__(self, model: Sam2, *, by_products: bool | None = None, packs: bool | None = None) -> None:
        """`by_products` and `packs` say how to compute in bfloat16; without them, what this CPU does fastest."""
        self._model, self._trunk = model, model.image_encoder.trunk
        self._blocks: list[MultiScaleBlock] = list(self._trunk.blocks)  # type: ignore[arg-type]
        is_half = model.no_mem_embed.dtype == torch.bfloat16
        packs = is_half and (can_pack() if packs is None else packs)
        # With packed layers, an encoder in float32 before a decoder in bfloat16 only multiplies in bfloat16.
        multiplies_in_half = is_half and (packs or model.encoder_dtype == torch.bfloat16)
        self._neck = FoldedNeck(model) if multiplies_in_half else None
        if packs:
            for part in filter(None, (self._trunk, self._neck)):
                pack(part)
        elif model.no_mem_embed.dtype == torch.float32 and can_pack_exactly():
            pack_exactly(self._trunk)
        if by_products is None:
            by_products = multiplies_in_half and prefers_products()
        self._attention = Attention(by_products=by_products)
        has_tiles = multiplies_in_half and torch.cpu._is_amx_tile_supported()
        self.slice_operations = SLICE_OPERATIONS * (TILES_GAIN if has_tiles else 1)
        """About so many, or less, are between two calls of `between`, for each pair of threads."""

    def __call__(self, image: Tensor, between: _Between = lambda: None) -> tuple[Tensor, Tensor, Tensor]:
        """A normalised picture (3, s, s) to image_embed, feat_s0 and feat_s1, each (c, h, w).

        `between` is called every few milliseconds, and may decode.
        """
        between()
        # Convolved in this order the patches come as the blocks want them, and bits stay.
        x = self._trunk.embed(image[None].to(self._model.encoder_dtype, memory_format=torch.channels_last))
        between()
        count = self._num_nested()
        stages, x = self._nested(x, self._blocks[:count], between)
        for i, block in enumerate(self._blocks[count:], start=count):
            x = self._block(block, x, between)
            if i in self._trunk.stage_ends:
                stages.append(self._kept(i, x))
        maps = [stage.permute(0, 3, 1, 2) for stage in stages]
        if self._neck is None:
            image_embed, feat_s0, feat_s1 = self._model.project(*self._model.image_encoder.neck(maps))
        else:
            feat_s0, feat_s1, image_embed, coarsest = maps
            image_embed = image_embed + F.interpolate(coarsest, scale_factor=2.0, mode="nearest")
        return image_embed[0], feat_s0[0], feat_s1[0]

    def _kept(self, block: int, x: Tensor) -> Tensor:
        """What the neck needs of (n, h, w, c), which the last block of a stage leaves."""
        return x if self._neck is None else self._neck(self._trunk.stage_ends.index(block), x)

    def _num_nested(self) -> int:
        """How many of the first blocks have the windows that the blocks before leave."""
        side = self._blocks[0].window_size
        for i, block in enumerate(self._blocks):
            if block.window_size != side:
                return i
            side //= 2 if block.pools else 1
        return len(self._blocks)

    def _nested(
        self, x: Tensor, blocks: list[MultiScaleBlock], between: _Between
    ) -> tuple[list[Tensor], Tensor]:
        """The map (1, h, w, c) through blocks of nested windows: what is kept of each stage, and the last map."""
        side = blocks[0].window_size
        tiles = x.shape[1] // side
        count = max(1, tiles // -(-WINDOWS // tiles))
        maps: dict[int, Tensor] = {}
        for start, stop in pairwise(tiles * i // count for i in range(count + 1)):
            part = partition_windows(x[:, start * side : stop * side], side).contiguous()
            for i, block in enumerate(blocks):
                part = self._block(block, part, between)
                if i in self._trunk.stage_ends:
                    _place(maps, i, self._kept(i, part), tiles=tiles, start=start)
            _place(maps, len(blocks), part, tiles=tiles, start=start)
        *stages, last = maps.values()
        return stages, last

    def _block(self, block: MultiScaleBlock, x: Tensor, between: _Between) -> Tensor:
        """As MultiScaleBlock.forward: (n, h, w, dim) to (n, h, w, dim_out), half as high and wide if it pools.

        n is 1, or these are the block's windows already.
        """
        n, height, width, dim = x.shape
        rows = x.view(-1, dim)
        dim_out = block.norm2.normalized_shape[0]
        normal = block.norm1(rows)
        qkv = self._in_slices(block.attn.qkv, normal, operations=6 * dim * dim_out, between=between)
        shortcut = rows
        if block.proj is not None:
            shortcut = self._in_slices(block.proj, normal, operations=2 * dim * dim_out, between=between)
            shortcut = shortcut.to(x.dtype)
        if block.pools:
            shortcut = _max_pool_2x2(shortcut.view(n, height, width, -1)).flatten(0, 2)
        attended = self._attend(block, qkv.view(n, height, width, -1), between)
        out = torch.empty_like(shortcut)
        for some in self._slices(len(out), operations=18 * dim_out**2):
            summed = shortcut[some] + block.attn.proj(attended[some])
            torch.add(summed, block.mlp(block.norm2(summed)), out=out[some])
            between()
        stride = 2 if block.pools else 1
        return out.view(n, height // stride, width // stride, -1)

    def _attend(self, block: MultiScaleBlock, qkv: Tensor, between: _Between) -> Tensor:
        """What attn.proj takes: of (n, h, w, 3 c) rows (n * h * w, c), a quarter of them where the block pools."""
        n, height, width, _ = qkv.shape
        side = block.window_size
        is_map = n == 1 and side > 0
        if is_map:
            qkv = partition_windows(_padded(qkv, side, block.attn.qkv.bias), side)
        q, k, v = qkv.chunk(3, dim=-1)
        if block.pools:
            q = _max_pool_2x2(q)
            height, width = height // 2, width // 2
        shape, heads = q.shape, block.attn.num_heads
        q, k, v = (t.reshape(len(t), -1, heads, shape[-1] // heads).transpose(1, 2) for t in (q, k, v))
        attended = self._attention(q, k, v, between).view(shape)
        if is_map:
            attended = join_windows(attended, height=height, width=width)
        return attended.flatten(0, 2)

    def _slices(self, rows: int, *, operations: int) -> Iterator[slice]:
        """So many rows, of so many operations each, in slices that take a few milliseconds."""
        most = self.slice_operations * max(1.0, torch.get_num_threads() / 2)
        count = max(1, min(rows // MIN_ROWS, round(rows * operations / most)))
        for start, stop in pairwise(rows * i // count for i in range(count + 1)):
            yield slice(start, stop)

    def _in_slices(
        self, layer: Callable[[Tensor], Tensor], rows: Tensor, *, operations: int, between: _Between
    ) -> Tensor:
        parts = []
        for some in self._slices(len(rows), operations=operations):
            parts.append(layer(rows[some]))
            between()
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _place(maps: dict[int, Tensor], key: int, windows: Tensor, *, tiles: int, start: int) -> None:
    """Write rows of windows (n * tiles, side, side, c), of which there are `tiles`, into their map (1, h, w, c)."""
    _, side, _, c = windows.shape
    if key not in maps:
        maps[key] = windows.new_empty(1, tiles * side, tiles * side, c)
    rows = maps[key].view(tiles, side, tiles, side, c).transpose(1, 2)
    some = windows.view(-1, tiles, side, side, c)
    rows[start : start + len(some)] = some


def _padded(x: Tensor, side: int, value: Tensor) -> Tensor:
    """A map (1, h, w, c) with rows of `value` to the right and below, until windows of this side divide it."""
    _, height, width, c = x.shape
    if height % side == width % side == 0:
        return x
    out = x.new_empty(1, height + -height % side, width + -width % side, c)
    out[:, :height, :width], out[:, :height, width:], out[:, height:] = x, value, value
    return out


def _max_pool_2x2(x: Tensor) -> Tensor:
    """Halve height and width of (n, h, w, c). Channels last, torch's max_pool2d takes twice as long."""
    rows = torch.maximum(x[:, ::2], x[:, 1::2])
    return torch.maximum(rows[:, :, ::2], rows[:, :, 1::2])
