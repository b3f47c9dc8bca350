"""Layers in float32 with packed weights have the bits of those that they replace."""

import pytest
import torch
from torch import Tensor, nn

from model.cpu import packed_exact
from model.cpu.packed_exact import ExactLinear, can_pack_exactly, pack_exactly
from model.network.linear import MIN_ROWS, Linear

needs_operators = pytest.mark.skipif(not can_pack_exactly(), reason="this build of torch rounds otherwise")


def layer_and_rows(k: int, n: int, rows: int) -> tuple[Linear, Tensor]:
    chance = torch.Generator().manual_seed(k)
    layer = Linear(k, n).requires_grad_(requires_grad=False)
    layer.weight.copy_(torch.randn(n, k, generator=chance))
    return layer, torch.randn(rows, k, generator=chance)


@needs_operators
@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("k", "n"), [(96, 288), (192, 96), (224, 64), (384, 128), (448, 96), (1536, 384)])
def test_bits_are_those_of_the_layer(k: int, n: int, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for rows in (MIN_ROWS, 1365, 2048):
            layer, x = layer_and_rows(k, n, rows)
            assert torch.equal(ExactLinear(layer)(x), layer(x))
    finally:
        torch.set_num_threads(before)


@needs_operators
@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 49, 176, 308])
def test_few_rows_have_the_bits_of_many(rows: int) -> None:
    """An area of a map is as the map."""
    layer, x = layer_and_rows(384, 96, MIN_ROWS)
    exact = ExactLinear(layer)
    assert torch.equal(exact(x[:rows]), layer(x)[:rows])
    assert torch.equal(exact(x.view(2, -1, 384)).view(len(x), -1), exact(x))


@torch.inference_mode()
def test_the_plain_weight_is_freed() -> None:
    layer, _ = layer_and_rows(384, 96, MIN_ROWS)
    module = nn.Sequential(layer)
    pack_exactly(module)
    assert isinstance(module[0], ExactLinear)
    assert not any(weight is layer.weight for weight in (*module.parameters(), *module[0]._weights))


def test_other_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a oneDNN that begins with the sum, or of a torch without the operators."""
    forward = ExactLinear.forward
    monkeypatch.setattr(ExactLinear, "forward", lambda self, x: forward(self, x) + 1e-6)
    assert not can_pack_exactly.__wrapped__()
    monkeypatch.setattr(ExactLinear, "forward", forward)
    monkeypatch.setattr(packed_exact, "TYPICAL_ROWS", "many")
    assert not can_pack_exactly.__wrapped__()
