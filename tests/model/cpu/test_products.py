"""Products of two matrices, whichever library makes them."""

from typing import Any

import pytest
import torch

from model.cpu import products
from model.cpu.products import can_ask_onednn, mkl_is_slow, plus_times, times

AMD, INTEL = "AMD EPYC", "Intel(R) Xeon(R) Processor"


@torch.inference_mode()
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (64, 64, 4096), (1024, 128, 256), (7, 300, 5)])
def test_rows_and_columns_may_lie_in_any_order(dtype: torch.dtype, m: int, k: int, n: int) -> None:
    torch.manual_seed(m)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.2}
    x, y, summand = (torch.randn(shape).to(dtype) for shape in ((m, k), (n, k), (m, n)))
    expected = x.double() @ y.double().T
    for one in (x, x.T.contiguous().T):
        for other in (y, y.T.contiguous().T):
            torch.testing.assert_close(times(one, other).double(), expected, **tolerance)
            found = plus_times(summand.clone(), one, other)
            torch.testing.assert_close(found.double(), expected + summand.double(), **tolerance)


@pytest.mark.parametrize(
    ("able", "is_slow"),
    [
        ({"cpu_name": AMD, "avx512_f": True}, can_ask_onednn()),
        ({"cpu_name": AMD, "avx512_f": False}, False),
        ({"cpu_name": INTEL, "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_mkl_is_slow_on_amd_with_avx_512(
    able: dict[str, Any], is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert mkl_is_slow.__wrapped__() is is_slow


@pytest.mark.parametrize("broken", [lambda *_: 1 / torch.zeros(8, 32), lambda *_: torch.ops.mkldnn.no_such()])
def test_an_operator_that_fails_is_not_used(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_plus_by_onednn", broken)
    assert not can_ask_onednn.__wrapped__()
