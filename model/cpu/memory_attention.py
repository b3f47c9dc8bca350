"""Memory attention for CPUs: the same function as network/memory_attention.py, in blocks, and in slices.

- Values of memories are projected after the attention: weights of attention sum to one, so softmax(q k) (m W + b)
  is (softmax(q k) m) W + b. Memories have 64 channels and a head has 256: three eighths of the work. PyTorch's
  kernel wants values as wide as keys, so this attention is in long_attention.py. In bfloat16 the kernel is faster
  all the same, and does it. For the same reason the projections of values and of the output are one product.
- A rotation turns pairs of channels. Here the first of all pairs come first, then the second of all, in queries
  and keys alike, so that it is a few products of rows in cache. Scores do not depend on the order of channels.
- In float32 the scores of three frames and more are made without keys (axial_keys.py).
- In bfloat16 weights are packed (packed.py), and what is not a product is in float32.
- On AMD's processors with AVX-512, PyTorch's kernel and products of many small matrices are slow. There all
  attention is that of long_attention.py, with keys and in float32 (products.py).

What no object changes is computed once for all.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cpu import products
from model.cpu.attention import KERNEL_QUERIES
from model.cpu.axial_keys import LEAST_MAPS, AxialKeys, AxialMemory, Room
from model.cpu.long_attention import attend
from model.cpu.packed import PackedLinear, can_pack
from model.network.linear import rows_times
from model.network.memory import VideoMemory
from model.network.memory_attention import (
    POSITION_WEIGHT,
    MemoryAttentionLayer,
    Remembered,
    RotaryAttention,
)
from model.network.positions import axial_rotations, sine_map

ROWS = 1024
"""In a slice of a layer."""

ALL = slice(None)

_Between = Callable[[], None]


class CpuMemoryAttention:
    """Lets a frame's features see what is remembered of each object."""

    def __init__(self, memory: VideoMemory) -> None:
        side, channels, device = memory.config.embedding_size, memory.config.embed_dim, torch.device("cpu")
        attention = memory.memory_attention
        layers: list[MemoryAttentionLayer] = list(attention.layers)  # type: ignore[arg-type]
        self._turn = turn = _Turn(side, channels)
        self._dtype = memory.dtype
        self._positions = POSITION_WEIGHT * sine_map(side, channels, device=device)
        self._layers = [_Layer(layer, turn) for layer in layers]
        self._norm = _Norm(attention.norm)

    def __call__(
        self, features: Tensor, remembered: Sequence[Remembered], between: _Between = lambda: None
    ) -> Tensor:
        """Features (h * w, c) of a frame to those that b objects are sought in: (b, h * w, c).

        `between` is called every few milliseconds, and may decode.
        """
        first, *others = self._layers
        shared = first.look_at_itself(features.float() + self._positions, between)
        found, room = [], Room()
        for each in remembered:
            memory = _Memory(each, self._turn, room)
            x = first.recall(shared, memory, between)
            for layer in others:
                x = layer.recall(layer.look_at_itself(x, between), memory, between)
            found.append(self._norm(x).to(self._dtype))
        return torch.stack(found)


class _Layer:
    """See MemoryAttentionLayer."""

    def __init__(self, layer: MemoryAttentionLayer, turn: "_Turn") -> None:
        self._to_itself = _ToItself(layer.self_attn, turn)
        self._to_memory = _ToMemory(layer.cross_attn_image, turn)
        self._norm1, self._norm2, self._norm3 = _Norm(layer.norm1), _Norm(layer.norm2), _Norm(layer.norm3)
        self._linear1, self._linear2 = product(layer.linear1, activation="relu"), product(layer.linear2)

    def look_at_itself(self, x: Tensor, between: _Between) -> Tensor:
        """Features (n, c) to the same, which have seen each other."""
        return x + self._to_itself(self._norm1(x), between)

    def recall(self, x: Tensor, memory: "_Memory", between: _Between) -> Tensor:
        """Features (n, c) to the same, which have seen what is remembered of one object."""
        x = x + self._to_memory(self._norm2(x), memory, between)
        return _in_slices(lambda rows: rows + self._linear2(self._linear1(self._norm3(rows))), x, between)


class _ToItself:
    """Self attention, by PyTorch's kernel where MKL is fast: values are as wide as keys."""

    def __init__(self, attention: RotaryAttention, turn: "_Turn") -> None:
        self._q, self._k = turn.after(attention.q_proj), turn.after(attention.k_proj)
        self._v = product(_joined(attention.v_proj, attention.out_proj))
        self._dtype = attention.v_proj.weight.dtype
        self._attends_by_kernel = not products.mkl_is_slow()

    def __call__(self, x: Tensor, between: _Between) -> Tensor:
        """(n, c) to (n, c)."""
        if not self._attends_by_kernel:
            seen = attend(self._q(x, between), self._k(x, between), x, between)
            return _in_slices(self._v, seen, between)
        x = x.to(self._dtype)
        q, k = self._q(x, between).to(self._dtype), self._k(x, between).to(self._dtype)
        return _by_kernel(q, k, _in_slices(self._v, x, between), between)


class _ToMemory:
    """Cross attention to what is remembered of one object."""

    def __init__(self, attention: RotaryAttention, turn: "_Turn") -> None:
        self._q, self._k = turn.after(attention.q_proj), turn.after(attention.k_proj)
        self._v = product(_joined(attention.v_proj, attention.out_proj))
        self._dtype = attention.v_proj.weight.dtype
        self._attends_by_kernel = self._dtype != torch.float32 and not products.mkl_is_slow()
        self._axial = turn.axial_keys(attention.k_proj) if _scores_without_keys(self._dtype) else None

    def __call__(self, x: Tensor, memory: "_Memory", between: _Between) -> Tensor:
        """(n, c) to (n, c)."""
        queries, num_pointers = self._q(x, between), memory.num_pointers
        if self._attends_by_kernel:
            k = self._k(memory.placed(), between, unturned=num_pointers).to(self._dtype)
            v = _in_slices(self._v, memory.tokens, between)
            return _by_kernel(queries.to(self._dtype), k, v, between)
        recalled: Tensor | None = None
        if self._axial is not None and memory.axial is not None:
            pointers = memory.pointers()
            others = self._k(memory.placed(pointers), between, unturned=num_pointers), memory.tokens[pointers]
            recalled = self._axial.attend(queries, memory.axial, others, memory.room, between)
        if recalled is None:
            keys = self._k(memory.placed(), between, unturned=num_pointers)
            recalled = attend(queries, keys, memory.tokens, between)
        return _in_slices(self._v, recalled, between)


class _Memory:
    """What is remembered of one object, in float32, and arranged once for all layers."""

    def __init__(self, remembered: Remembered, turn: "_Turn", room: Room) -> None:
        self.tokens, self.num_pointers, self.room = remembered.tokens.float(), remembered.num_pointers, room
        self._positions = remembered.positions
        self.axial: AxialMemory | None = None
        cells = slice(len(self.tokens) - self.num_pointers)
        if _scores_without_keys(remembered.tokens.dtype) and cells.stop >= LEAST_MAPS * turn.side**2:
            self.axial = AxialMemory.of(self.placed(cells), self.tokens[cells], side=turn.side)

    def placed(self, some: slice = ALL) -> Tensor:
        """Tokens with their positions, (n, m)."""
        return self.tokens[some] + self._positions[some]

    def pointers(self) -> slice:
        """Those behind the cells of maps."""
        return slice(len(self.tokens) - self.num_pointers, None)


class _Turn:
    """Rotations of rows whose channels are the first of all pairs, then the second of all."""

    def __init__(self, side: int, channels: int) -> None:
        self.side = side
        self._rotations = axial_rotations(side, channels, device=torch.device("cpu"))  # h * w, c / 2
        self._cos, self._sin = self._rotations.real.contiguous(), self._rotations.imag.contiguous()

    def after(self, layer: nn.Linear) -> "_Turned":
        """A projection, and the rotations of what it returns."""
        paired = nn.Linear(layer.in_features, layer.out_features, device="meta")
        paired.weight, paired.bias = (
            nn.Parameter(_in_pairs(t), requires_grad=False) for t in (layer.weight, layer.bias)
        )
        return _Turned(product(paired), layer.out_features, self)

    def axial_keys(self, layer: nn.Linear) -> AxialKeys:
        """The same for scores without keys."""
        return AxialKeys(_in_pairs(layer.weight), _in_pairs(layer.bias), self._rotations)

    def __call__(self, rows: Tensor, start: int, out: Tensor) -> None:
        """Turn rows (n, c) of the map from row `start` on, into `out`."""
        cos, sin = (each[start : start + len(rows)] for each in (self._cos, self._sin))
        a, b = rows.float().chunk(2, dim=1)
        first, second = out.chunk(2, dim=1)
        torch.mul(a, cos, out=first).addcmul_(b, sin, value=-1)
        torch.mul(a, sin, out=second).addcmul_(b, cos)

    @property
    def cells(self) -> int:
        """Rows of a map."""
        return len(self._cos)


def _in_pairs(channels: Tensor) -> Tensor:
    """(c, ..): the first of all pairs, then the second of all."""
    return torch.cat([channels[0::2], channels[1::2]])


class _Turned:
    """A projection whose rows are turned, in float32."""

    def __init__(self, project: Callable[[Tensor], Tensor], width: int, turn: _Turn) -> None:
        self._project, self._width, self._turn = project, width, turn

    def __call__(self, rows: Tensor, between: _Between, *, unturned: int = 0) -> Tensor:
        """Rows (n, in) of whole maps, and of `unturned` last ones that are of no cell, to (n, out)."""
        out = torch.empty(len(rows), self._width)
        num_turned = len(rows) - unturned
        for first in range(0, num_turned, self._turn.cells):
            for start in range(0, self._turn.cells, ROWS):
                some = slice(first + start, first + min(start + ROWS, self._turn.cells))
                self._turn(self._project(rows[some]), start, out[some])
                between()
        if unturned:
            out[num_turned:] = self._project(rows[num_turned:])
        return out


class _Product:
    """A linear layer in float32, by the product that is fast on every CPU; the order of sums is oneDNN's."""

    def __init__(self, layer: nn.Linear, activation: str) -> None:
        self._weight, self._bias, self._activation = layer.weight, layer.bias, activation

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, in) to (n, out)."""
        out = rows_times(rows.to(self._weight.dtype), self._weight, self._bias)
        return out.relu_() if self._activation == "relu" else out


def product(layer: nn.Linear, *, activation: str = "none") -> Callable[[Tensor], Tensor]:
    """A linear layer and its activation, "none" or "relu"; in bfloat16 packed, where that can be."""
    if layer.weight.dtype == torch.bfloat16 and can_pack():
        packed = PackedLinear(layer)
        return lambda rows: packed(rows, activation)
    return _Product(layer, activation)


class _Norm:
    """Layer normalisation in float32."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self._weight, self._bias, self._eps = norm.weight.float(), norm.bias.float(), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        """Shape in, shape out."""
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)


def _joined(first: nn.Linear, last: nn.Linear) -> nn.Linear:
    """One layer for two, with what comes between them left out: weights of attention sum to one."""
    joined = nn.Linear(first.in_features, last.out_features, device="meta")
    weight, bias = (each.double() for each in (last.weight, last.bias))
    for name, each in (
        ("weight", weight @ first.weight.double()),
        ("bias", weight @ first.bias.double() + bias),
    ):
        setattr(joined, name, nn.Parameter(each.to(first.weight.dtype), requires_grad=False))
    return joined


def _scores_without_keys(dtype: torch.dtype) -> bool:
    """Whether axial_keys.py is the fastest for memories of this precision."""
    return dtype == torch.float32 and not products.mkl_is_slow()


def _by_kernel(q: Tensor, k: Tensor, v: Tensor, between: _Between) -> Tensor:
    """Attention of one head, from q (n, c) to k and v (m, c): (n, c)."""

    def attended(rows: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(rows[None, None], k[None, None], v[None, None])[0, 0]

    return _in_slices(attended, q, between, most=KERNEL_QUERIES)


def _in_slices(
    layer: Callable[[Tensor], Tensor], rows: Tensor, between: _Between, *, most: int = ROWS
) -> Tensor:
    """What a layer makes of rows (n, in): (n, out)."""
    parts = []
    for part in rows.split(most):
        parts.append(layer(part))
        between()
    return torch.cat(parts)
