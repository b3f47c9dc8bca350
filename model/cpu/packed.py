"""Linear layers in bfloat16 whose weights lie as oneDNN's product reads them. Does not know what the rows are.

With torch's own layers oneDNN rearranges a weight in every call. These keep the rearranged weight instead of the
plain one. The two operators are private: torch's inductor calls them. So they are tried out once, and without them
the layers stay torch's.
"""

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.layers import Mlp

log = logging.getLogger(__name__)

TYPICAL_ROWS = 1024
"""oneDNN chooses an order for so many rows. With other numbers of them the product is right as well."""

TOLERANCE = 0.01
"""Relative error that the try-out allows: bfloat16 has 8 bits."""


class PackedLinear(nn.Module):
    """Does what a layer does that it takes the weight from. Weight, input and output are rounded to bfloat16."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight, self.bias = (each.detach().bfloat16() for each in (layer.weight, layer.bias))
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return torch.ops.mkldnn._linear_pointwise(
            x.bfloat16(), self.weight, self.bias, activation, [], "none"
        )


class PackedMlp(nn.Module):
    """Two layers with GELU between them, which is computed from the sums before they are rounded."""

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        self._first, self._last = (PackedLinear(layer) for layer in mlp.layers)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) to (..., out_dim)."""
        return self._last(self._first(x, "gelu"))


def pack(module: nn.Module) -> None:
    """Replace the linear layers inside `module`; their own weights are freed."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child))
        elif isinstance(child, Mlp) and child.activation is F.gelu and len(child.layers) == 2:
            setattr(module, name, PackedMlp(child))
        else:
            pack(child)


@cache
def can_pack() -> bool:
    """Whether this build of torch has the operators, and they compute what they should."""
    chance = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=chance, dtype=torch.bfloat16) for shape in ((8, 64), (32, 64), (32,))
    )
    layer = nn.Linear(64, 32, dtype=torch.bfloat16)
    layer.weight.data, layer.bias.data = weight, bias
    try:
        with torch.inference_mode():
            packed = PackedLinear(layer)
            pairs = [(packed(x), layer(x)), (packed(x, "gelu"), F.gelu(layer(x)))]
    except (AttributeError, RuntimeError, TypeError) as error:
        log.info("Weights are not packed: %s", error)
        return False
    return all((one - other).norm() <= TOLERANCE * other.norm() for one, other in pairs)
