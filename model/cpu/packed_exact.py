"""Linear layers in float32 with the bits of network/linear.py, whose weights lie as oneDNN's product reads them.

With torch's own convolution oneDNN rearranges a weight in every call, and what a block of terms adds to the sum is
written before it is added. Here the product adds it. Packed weights of convolutions are no choice: with AVX-512,
other numbers of rows than they were packed for take up to eight times as long.

The operators are private, those of packed.py: they are tried out once, and without the same bits the layers stay as
they are. Does not know what the rows are.
"""

import logging
from functools import cache

import torch
from torch import Tensor, nn

from model.cpu.packed import TYPICAL_ROWS
from model.network.linear import MIN_ROWS, Linear, block_of

log = logging.getLogger(__name__)


class ExactLinear(nn.Module):
    """Does what a layer does that it takes the weight from, with input that is contiguous."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.bias = layer.bias.detach()
        self._block = block_of(layer.in_features)
        parts = layer.weight.detach().split(self._block, dim=1)
        self._weights = [torch.ops.mkldnn._reorder_linear_weight(p.contiguous(), TYPICAL_ROWS) for p in parts]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        multiply = torch.ops.mkldnn._linear_pointwise
        first, *others = x.split(self._block, dim=-1)
        out: Tensor = multiply(first, self._weights[0], self.bias, "none", [], "none")
        for part, weight in zip(others, self._weights[1:], strict=True):
            out = multiply(part, out, weight, None, "add")
        return out


def pack_exactly(module: nn.Module) -> None:
    """Replace the linear layers inside `module`; their own weights are freed."""
    for name, child in module.named_children():
        if isinstance(child, Linear):
            setattr(module, name, ExactLinear(child))
        else:
            pack_exactly(child)


@cache
def can_pack_exactly() -> bool:
    """Whether this build of torch has the operators, and their bits are those of network/linear.py."""
    chance = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            for k, n in ((96, 192), (384, 96), (448, 64)):
                layer, rows = Linear(k, n), torch.randn(2 * MIN_ROWS, k, generator=chance)
                layer.weight.copy_(torch.randn(n, k, generator=chance))
                exact, expected = ExactLinear(layer), layer(rows)
                # An area of a map has few rows.
                if not all(
                    torch.equal(exact(rows[:some]), expected[:some]) for some in (len(rows), 176, 49, 1)
                ):
                    log.info("Weights in float32 are not packed: the sums round otherwise.")
                    return False
    except (AttributeError, RuntimeError, TypeError) as error:
        log.info("Weights in float32 are not packed: %s", error)
        return False
    return True
