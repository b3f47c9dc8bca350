"""Both libraries that products may come from."""

import pytest

from model.cpu import products
from model.cpu.products import can_ask_onednn


@pytest.fixture(params=["MKL", "oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What model/cpu/products.py uses, whatever this machine is faster with."""
    is_slow = request.param == "oneDNN"
    if is_slow and not can_ask_onednn():
        pytest.skip("this build of torch lacks the operator")
    monkeypatch.setattr(products, "mkl_is_slow", lambda: is_slow)
    return str(request.param)
