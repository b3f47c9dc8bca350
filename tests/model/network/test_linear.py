"""Products of many rows: the same numbers as torch.nn.Linear, by another library."""

import pytest
import torch
from torch import nn

from model.network.linear import (
    MIN_ROWS,
    Linear,
    plus_columns_times,
    rows_linear,
    rows_times,
    softmax_over_rows,
    transposed_rows_times,
)
from tests.golden.test_golden import rounds_like_metas_machine


def exact(rows: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    return rows.double() @ layer.weight.double().T + layer.bias.double()


@torch.inference_mode()
@pytest.mark.parametrize("k", [7, 96, 192, 193, 256, 384, 448, 896])
@pytest.mark.parametrize("bias_last", [False, True])
def test_blocks_add_up_whatever_the_width(k: int, bias_last: bool) -> None:
    rows, layer = torch.randn(600, k), nn.Linear(k, 40)
    out = rows_linear(rows, layer.weight, layer.bias, bias_last=bias_last)
    assert (out - exact(rows, layer)).norm() < 1e-6 * out.norm()


@torch.inference_mode()
def test_rows_may_be_columns_of_a_wider_matrix_and_have_no_bias() -> None:
    wide, weight = torch.randn(50, 30), torch.randn(4, 10)
    torch.testing.assert_close(rows_times(wide[:, 5:15], weight), wide[:, 5:15] @ weight.T)


@torch.inference_mode()
@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_map_goes_through_a_layer_as_through_any_other(side: int, dtype: torch.dtype) -> None:
    assert (side**2 < MIN_ROWS) == (side == 8)
    layer = Linear(256, 24).to(dtype)
    for x in (
        torch.randn(1, side, side, 256, dtype=dtype),
        torch.randn(1, 256, side, side, dtype=dtype).permute(0, 2, 3, 1),
    ):
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@torch.inference_mode()
@pytest.mark.skipif(not rounds_like_metas_machine(), reason="this machine's MKL sums in another order")
@pytest.mark.parametrize("k", [96, 192, 256, 384, 448, 768, 896])
def test_sums_are_mkls_to_the_last_bit(k: int) -> None:
    rows, layer = torch.randn(1024, k), nn.Linear(k, 64)
    assert torch.equal(rows_linear(rows, layer.weight, layer.bias, bias_last=False), layer(rows))
    repeated = rows.T.contiguous().T  # not contiguous
    expected = nn.functional.linear(repeated[None], layer.weight, layer.bias)[0]
    assert torch.equal(rows_linear(rows, layer.weight, layer.bias, bias_last=True), expected)


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_a_few_tokens_and_many_cells_are_multiplied_either_way(dtype: torch.dtype, tolerance: float) -> None:
    cells, few = torch.randn(600, 64).to(dtype), torch.randn(9, 64).to(dtype) / 8
    bias = torch.randn(9).to(dtype)
    products = few.double() @ cells.double().T
    probabilities = softmax_over_rows(cells, few)
    for actual, expected in (
        (transposed_rows_times(cells, few, bias), products + bias.double()[:, None]),
        (probabilities, products.softmax(1)),
        (
            plus_columns_times(cells, probabilities, few),
            cells.double() + probabilities.double().T @ few.double(),
        ),
    ):
        assert actual.shape == expected.shape
        assert (actual - expected).norm() <= tolerance * expected.norm()
