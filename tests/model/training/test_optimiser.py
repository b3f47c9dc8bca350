"""Matrices move by orthogonal steps, all else by AdamW's; what goes on from a state moves alike."""

import copy

import pytest
import torch
from torch import nn

from model.training import optimiser
from model.training.optimiser import MATRIX_RATE, Float32Muon, Optimiser

RATE = 1e-3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 24)
        self.iou_token = nn.Embedding(4, 32)


def with_gradients(net: Net) -> Net:
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 2:
            parameter.grad[0] *= 100  # one direction outweighs all others
    return net


def test_a_matrix_moves_as_far_in_every_direction() -> None:
    torch.manual_seed(0)
    net = with_gradients(Net())
    nn.init.zeros_(net.linear.weight)
    Optimiser(net).step(RATE)
    lengths = torch.linalg.svdvals(net.linear.weight.detach())
    assert lengths.max() < 2 * lengths.min()
    root_mean_square = net.linear.weight.square().mean().sqrt().item()
    assert root_mean_square == pytest.approx(0.2 * MATRIX_RATE * RATE, rel=0.2)


def test_all_else_moves_by_the_sign_of_its_first_gradient() -> None:
    net = with_gradients(Net())
    before, signs = (
        copy.deepcopy(net),
        {name: x.grad.sign() for name, x in net.named_parameters() if x.grad is not None},
    )
    Optimiser(net).step(RATE)
    for name in ("linear.bias", "iou_token.weight"):
        moved = net.get_parameter(name) - before.get_parameter(name)
        torch.testing.assert_close(moved, -RATE * signs[name], rtol=1e-2, atol=1e-6)
    assert not any(x.grad.any() for x in net.parameters() if x.grad is not None)


@pytest.mark.parametrize("shape", [(24, 32), (48, 16)])
def test_in_float32_a_matrix_moves_as_in_bfloat16(shape: tuple[int, int]) -> None:
    chance = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=chance)
    gradients = [torch.randn(shape, generator=chance) for _ in range(3)]
    moved = []
    for kind in (torch.optim.Muon, Float32Muon):
        matrix = nn.Parameter(start.clone())
        muon = kind([matrix], lr=0.1, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        for gradient in gradients:
            matrix.grad = gradient
            muon.step()
        moved.append(matrix.detach() - start)
    assert (moved[0] - moved[1]).norm() < 0.03 * moved[0].norm()  # bfloat16 has 8 bits, in 15 products


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.float32, Float32Muon), (torch.bfloat16, torch.optim.Muon)]
)
def test_matrices_move_in_float32_where_bfloat16_is_emulated(
    dtype: torch.dtype, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimiser, "resolve_dtype", lambda *_: dtype)
    assert type(Optimiser(Net())._muon) is kind


def test_what_goes_on_from_a_state_moves_alike() -> None:
    net = with_gradients(Net())
    first = Optimiser(net)
    first.step(RATE)
    again = copy.deepcopy(net)
    resumed = Optimiser(again)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    for each, its in ((net, first), (again, resumed)):
        with_gradients(each)
        its.step(RATE)
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
