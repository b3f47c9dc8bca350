"""The least time that an encode can take on this CPU: its products, at the rate of the fastest product here.

Does not count softmax, norms and activations; no encoder does without them.
"""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from model.cpu.packed import PackedLinear, can_pack
from model.cpu.packed_exact import ExactLinear, can_pack_exactly
from model.network.config import VARIANTS
from model.network.sam2 import Sam2

ROWS, IN, OUT = 4096, 384, 1536
"""A layer of the third stage, where most of the work is."""

SHARE = 16
"""A floor's call does so small a part of the work of an encode."""


def encode_operations(variant: str) -> int:
    """Return the operations of the products of one encode, attention included; two to a multiplication."""
    with torch.device("meta"):
        model = Sam2(VARIANTS[variant])
        images = torch.empty(1, 3, model.config.image_size, model.config.image_size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.encode(images)
    return counter.get_total_flops()


def products(variant: str, dtype: torch.dtype) -> Callable[[], None]:
    """Return a call that does products of a SHARE of the operations of an encode, with packed weights if it can."""
    layer = torch.nn.Linear(IN, OUT, dtype=dtype).requires_grad_(requires_grad=False)
    rows = torch.randn(ROWS, IN, dtype=dtype)
    multiply: torch.nn.Module = layer
    if dtype == torch.bfloat16 and can_pack():
        multiply = PackedLinear(layer)
    elif dtype == torch.float32 and can_pack_exactly():
        multiply = ExactLinear(layer)
    count = round(encode_operations(variant) / (2 * ROWS * IN * OUT) / SHARE)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(count):
                multiply(rows)

    return run
