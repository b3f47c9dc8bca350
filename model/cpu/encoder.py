"""The image encoder for CPUs: the same function as network/image_encoder.py with fewer copies, in areas and slices.

- A map is cut into areas of whole windows. Each goes through all blocks up to the next one that attends over the
  whole map, and through the layers before its attention: a thread computes an area alone (apart.py), without a
  barrier after every operation, and an area stays in its cache.
- The first two stages run in window order: what a block leaves of a window, half as wide where it pools, is a
  window of the next block.
- Rows that windows are padded with go through no layer: a linear layer makes its bias of them.
- In bfloat16 attention is done in the way that this CPU does fastest (attention.py), weights are packed
  (packed.py), and what follows the neck is folded into it (folded_neck.py).
- An encoder in float32 before a decoder in bfloat16, as the built-in model has, keeps its maps and norms in
  float32, and multiplies in bfloat16.

Where the decoder is in float32 too, all sums are those of the plain encoder, to the last bit: golden numbers need
that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import lcm

import torch
import torch.nn.functional as F
from torch import Tensor

from model.cpu.apart import Between, do_not_pause, run_apart
from model.cpu.areas import Area, Canvas, areas_of, strips_of
from model.cpu.attention import Attention, prefers_products
from model.cpu.folded_neck import FoldedNeck
from model.cpu.packed import can_pack, pack
from model.cpu.packed_exact import can_pack_exactly, pack_exactly
from model.cpu.phases import phases_of
from model.network.hiera import MultiScaleBlock, join_windows, partition_windows
from model.network.linear import MIN_ROWS
from model.network.sam2 import Sam2

WINDOWS = 128
"""Windows of 8 x 8 that go through the first blocks together; MIN_ROWS rows are left of them in the last block."""

QUERIES = 1024
"""In an area that attends over the whole map: PyTorch's kernel rearranges all keys and values for each."""

MOST_LANES = 4
"""Areas that are computed at a time. With more threads, each area has several of them."""

SLICE_OPERATIONS = 2.5e9
"""Of a product between two calls of `between`: 6 ms on two cores in bfloat16, 10 ms in float32."""

TILES_GAIN = 2
"""With matrix tiles (AMX) a slice in bfloat16 has so many times the operations, and takes 4 ms: the larger the
products are, the more two threads gain."""


@dataclass(frozen=True)
class _Drawn:
    """What a phase leaves to the next one: a map, or for a block that attends over all of it what it needs."""

    x: Canvas
    qkv: Canvas
    shortcut: Canvas


@dataclass(frozen=True)
class _Phase:
    """Blocks that areas go through apart, and the maps that all areas read and draw."""

    blocks: range
    before: _Drawn
    after: _Drawn
    kept: dict[int, Canvas]
    """What the neck takes, by the last block of its stage."""


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
        # MKL, which has the layers that are not packed, may round products of few rows in another way.
        self._most_lanes = MOST_LANES
        if packs:
            for part in filter(None, (self._trunk, self._neck)):
                pack(part)
        elif model.no_mem_embed.dtype == torch.float32:
            if can_pack_exactly():
                pack_exactly(self._trunk)
            else:
                self._most_lanes = 1
        if by_products is None:
            by_products = multiplies_in_half and prefers_products()
        self._attention = Attention(by_products=by_products)
        has_tiles = multiplies_in_half and torch.cpu._is_amx_tile_supported()
        self.slice_operations = SLICE_OPERATIONS * (TILES_GAIN if has_tiles else 1)
        """About so many, or less, are between two calls of `between`, for each pair of threads."""
        self._phases = phases_of(self._blocks)

    def __call__(self, image: Tensor, between: Between = do_not_pause) -> tuple[Tensor, Tensor, Tensor]:
        """A normalised picture (3, s, s) to image_embed, feat_s0 and feat_s1, each (c, h, w).

        `between` is called every few milliseconds, and may decode.
        """
        between()
        # Convolved in this order the patches come as the blocks want them, and bits stay.
        x = self._trunk.embed(image[None].to(self._model.encoder_dtype, memory_format=torch.channels_last))
        between()
        _, height, width, _ = x.shape
        kept = {block: Canvas(height >> i, width >> i) for i, block in enumerate(self._trunk.stage_ends)}
        drawn = _Drawn(Canvas(height, width, x), Canvas(0, 0), Canvas(0, 0))
        del x
        for blocks in self._phases:
            between()  # the number of threads may change between two phases
            drawn = self._through(blocks, drawn, kept, between)
        maps = [canvas.whole.permute(0, 3, 1, 2) for canvas in kept.values()]
        if self._neck is None:
            image_embed, feat_s0, feat_s1 = self._model.project(*self._model.image_encoder.neck(maps))
        else:
            feat_s0, feat_s1, image_embed, coarsest = maps
            image_embed = image_embed + F.interpolate(coarsest, scale_factor=2.0, mode="nearest")
        return image_embed[0], feat_s0[0], feat_s1[0]

    def _is_everywhere(self, block: int) -> bool:
        """Whether there is such a block, and it attends over the whole map."""
        return block < len(self._blocks) and self._blocks[block].window_size == 0

    def _through(self, blocks: range, before: _Drawn, kept: dict[int, Canvas], between: Between) -> _Drawn:
        """One phase: areas go through these blocks, each apart, and to the attention of a block that follows."""
        is_everywhere, lanes = self._is_everywhere(blocks.start), self._num_lanes()
        _, height, width, _ = (before.qkv if is_everywhere else before.x).whole.shape
        through = self._everywhere if is_everywhere else self._in_windows
        scale = 2 ** sum(self._blocks[i].pools for i in blocks)
        size = height // scale, width // scale
        pools_next = blocks.stop < len(self._blocks) and self._blocks[blocks.stop].pools
        shortcut = Canvas(size[0] // 2, size[1] // 2) if pools_next else Canvas(*size)
        phase = _Phase(blocks, before, _Drawn(Canvas(*size), Canvas(*size), shortcut), kept)
        areas = self._areas(blocks, height, width, lanes=lanes)
        run_apart([partial(through, phase, area) for area in areas], between, most=lanes)
        return phase.after

    def _num_lanes(self) -> int:
        """Areas at a time, each with as many threads as the others."""
        threads = torch.get_num_threads()
        most = min(threads, self._most_lanes)
        # With five threads, four areas: one of five cores is left, and the others do not wait for each other.
        return max(range(min(2, most), most + 1), key=lambda lanes: (threads // lanes * lanes, lanes))

    def _areas(self, blocks: range, height: int, width: int, *, lanes: int) -> list[Area]:
        """Of a map that a phase begins with."""
        if blocks.start == 0:
            side = self._blocks[0].window_size
            tiles = height // side
            count = max(1, tiles // -(-WINDOWS // tiles))
            return strips_of(height, width, side=side, count=-(-count // lanes) * lanes)
        if self._is_everywhere(blocks.start):
            count = lanes * max(1, height * width // (QUERIES * lanes)) if lanes > 1 else 1
            return strips_of(height, width, side=4, count=count)
        side = scale = 1
        for i in blocks:
            side = lcm(side, self._blocks[i].window_size * scale)
            scale *= 2 if self._blocks[i].pools else 1
        return areas_of(height, width, side=side, threads=lanes)

    def _in_windows(self, phase: _Phase, area: Area, between: Between) -> None:
        """An area through blocks that attend in windows."""
        x = area.of(phase.before.x.whole)
        if phase.blocks.start == 0:
            x = partition_windows(x, self._blocks[0].window_size)
        x = x.contiguous()
        for i in phase.blocks:
            qkv, shortcut = self._project(self._blocks[i], x, between)
            attended = self._attend(self._blocks[i], qkv, between)
            del qkv
            x = self._finish(self._blocks[i], attended, shortcut, between)
            del attended, shortcut
            if self._blocks[i].pools:
                area = area.halved()
            self._keep(i, area, x, phase.kept)
        self._hand_on(phase, area, x, between)

    def _everywhere(self, phase: _Phase, area: Area, between: Between) -> None:
        """An area of the queries through a block in which they attend to the whole map."""
        block = self._blocks[phase.blocks.start]
        qkv, shortcut = phase.before.qkv.whole, phase.before.shortcut.whole
        q, k, v = area.of(qkv).chunk(3, dim=-1)[0], *qkv.chunk(3, dim=-1)[1:]
        if block.pools:
            q, area = _max_pool_2x2(q), area.halved()
        q, k, v = (_by_head(t, block.attn.num_heads) for t in (q, k, v))
        attended = self._attention(q, k, v, between)
        x = self._finish(block, attended.flatten(2).flatten(0, 1), area.of(shortcut), between)
        self._keep(phase.blocks.start, area, x, phase.kept)
        self._hand_on(phase, area, x, between)

    def _keep(self, block: int, area: Area, x: Tensor, kept: dict[int, Canvas]) -> None:
        """Draw what the neck needs of an area, where the block is the last one of a stage."""
        if block in kept:
            stage = self._trunk.stage_ends.index(block)
            kept[block].draw(area, x if self._neck is None else self._neck(stage, x))

    def _hand_on(self, phase: _Phase, area: Area, x: Tensor, between: Between) -> None:
        """Draw what the block that begins the next phase needs of an area."""
        block, drawn = phase.blocks.stop, phase.after
        if self._is_everywhere(block):
            qkv, shortcut = self._project(self._blocks[block], x, between)
            drawn.qkv.draw(area, qkv)
            drawn.shortcut.draw(area.halved() if self._blocks[block].pools else area, shortcut)
        elif block < len(self._blocks):
            drawn.x.draw(area, x)

    def _project(self, block: MultiScaleBlock, x: Tensor, between: Between) -> tuple[Tensor, Tensor]:
        """What a block does before its attention: (n, h, w, dim) to qkv (n, h, w, 3 c) and the shortcut.

        n is 1, or these are windows. The shortcut has dim_out channels, and half the height and width if the block
        pools.
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
        shortcut = shortcut.view(n, height, width, -1)
        return qkv.view(n, height, width, -1), _max_pool_2x2(shortcut) if block.pools else shortcut

    def _attend(self, block: MultiScaleBlock, qkv: Tensor, between: Between) -> Tensor:
        """What attn.proj takes: of (n, h, w, 3 c) rows (n * h * w, c), a quarter of them where the block pools.

        A map, with n = 1, is cut into windows; other n are windows.
        """
        n, height, width, _ = qkv.shape
        side = block.window_size
        is_map = n == 1
        if is_map:
            qkv = partition_windows(_padded(qkv, side, block.attn.qkv.bias), side)
        q, k, v = qkv.chunk(3, dim=-1)
        if block.pools:
            q = _max_pool_2x2(q)
            height, width = height // 2, width // 2
        shape = q.shape
        q, k, v = (_by_head(t, block.attn.num_heads) for t in (q, k, v))
        attended = self._attention(q, k, v, between).view(shape)
        if is_map:
            attended = join_windows(attended, height=height, width=width)
        return attended.flatten(0, 2)

    def _finish(self, block: MultiScaleBlock, attended: Tensor, shortcut: Tensor, between: Between) -> Tensor:
        """What a block does after its attention, of which it takes rows (n * h * w, c): (n, h, w, c)."""
        rows = shortcut.flatten(0, 2)
        out = torch.empty_like(rows)
        for some in self._slices(len(out), operations=18 * out.shape[1] ** 2):
            summed = rows[some] + block.attn.proj(attended[some])
            torch.add(summed, block.mlp(block.norm2(summed)), out=out[some])
            between()
        return out.view(shortcut.shape)

    def _slices(self, rows: int, *, operations: int) -> Iterator[slice]:
        """So many rows, of so many operations each, in slices that take a few milliseconds."""
        most = self.slice_operations * torch.get_num_threads() / 2
        count = max(1, min(rows // MIN_ROWS, round(rows * operations / most)))
        for start, stop in pairwise(rows * i // count for i in range(count + 1)):
            yield slice(start, stop)

    def _in_slices(
        self, layer: Callable[[Tensor], Tensor], rows: Tensor, *, operations: int, between: Between
    ) -> Tensor:
        parts = []
        for some in self._slices(len(rows), operations=operations):
            parts.append(layer(rows[some]))
            between()
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(n, h, w, heads * d) to (n, heads, h * w, d)."""
    return x.reshape(len(x), -1, heads, x.shape[-1] // heads).transpose(1, 2)


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
