"""Float32 products of matrices of which neither is a weight, by oneDNN where MKL is slow.

PyTorch sends such products to MKL. That has no AVX-512 on AMD's processors, and oneDNN has: 250 GFLOP/s on a core,
and 110. The operator is private, one of packed.py's: without it products are PyTorch's. Does not know what the
matrices are.
"""

from functools import cache

import torch
from torch import Tensor

from model.cpu.packed import can_pack


@cache
def mkl_is_slow() -> bool:
    """Whether oneDNN's products in float32 take half of MKL's time, and can be had."""
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.7 has none
    return "AMD" in str(able.get("cpu_name")) and bool(able.get("avx512_f")) and can_pack()


def times(x: Tensor, y: Tensor) -> Tensor:
    """Rows x (m, k) times y (n, k) transposed: (m, n)."""
    if x.dtype != torch.float32 or not mkl_is_slow():
        return x @ y.T
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "none")
    return out


def plus_times(summand: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A summand (m, n), which is overwritten, plus x (m, k) times y (n, k) transposed: (m, n)."""
    if x.dtype != torch.float32 or not mkl_is_slow():
        return summand.addmm_(x, y.T)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, summand, y, None, "add")
    return out
