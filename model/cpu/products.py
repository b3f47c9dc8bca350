"""Float32 products of matrices of which no packed copy is kept, by oneDNN where MKL is slow.

PyTorch sends such products to MKL. That does not use AVX-512 on AMD's processors: a core does 110 GFLOP/s by MKL,
and 250 by oneDNN. The operator is private, one of packed.py's, so it is tried out once: without it products are
PyTorch's. Does not know what the matrices are.
"""

import logging
from functools import cache

import torch
from torch import Tensor

log = logging.getLogger(__name__)


@cache
def mkl_is_slow() -> bool:
    """Whether oneDNN's products in float32 take half of MKL's time, and can be had."""
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.7 has none
    return "AMD" in str(able.get("cpu_name")) and bool(able.get("avx512_f")) and can_ask_onednn()


@cache
def can_ask_onednn() -> bool:
    """Whether this build of torch has the operator, and it computes what it should."""
    chance = torch.Generator().manual_seed(0)
    x, y, summand = (torch.randn(shape, generator=chance) for shape in ((8, 64), (64, 32), (8, 32)))
    try:
        with torch.inference_mode():
            product, total = _by_onednn(x, y.T), _plus_by_onednn(summand.clone(), x, y.T)
    except (AttributeError, RuntimeError, TypeError) as error:
        log.info("Products in float32 are left to PyTorch: %s", error)
        return False
    pairs = (product, x @ y), (total, summand + x @ y)
    return all(torch.allclose(found, expected, atol=1e-4) for found, expected in pairs)


def times(x: Tensor, y: Tensor) -> Tensor:
    """Rows x (m, k) times y (n, k) transposed: (m, n)."""
    if x.dtype != torch.float32 or not mkl_is_slow():
        return x @ y.T
    return _by_onednn(x, y)


def plus_times(summand: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return a summand (m, n), which may be overwritten, plus x (m, k) times y (n, k) transposed: (m, n)."""
    if x.dtype != torch.float32 or not mkl_is_slow():
        return summand.addmm_(x, y.T)
    return _plus_by_onednn(summand, x, y)


def _by_onednn(x: Tensor, y: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "none")
    return out


def _plus_by_onednn(summand: Tensor, x: Tensor, y: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, summand, y, None, "add")
    return out
