"""Values projected after the attention are those projected before it."""

import pytest
import torch
import torch.nn.functional as F

from model.network.long_attention import _attend, attend_with_projected_values


@pytest.mark.parametrize(("n", "m"), [(64, 64), (1024, 1500), (1100, 2049)])
def test_values_projected_afterwards_are_the_same(n: int, m: int) -> None:
    torch.manual_seed(0)
    q, k, memory = torch.randn(2, n, 32), torch.randn(2, m, 32) * 3, torch.randn(2, m, 8)
    projection = torch.nn.Linear(8, 32)
    with torch.inference_mode():
        found = attend_with_projected_values(q, k, memory, projection)
        expected = F.scaled_dot_product_attention(
            q.double(), k.double(), projection.double()(memory.double())
        )
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    k = torch.zeros(2048, 32)
    k[5], k[1500] = -400, 400  # in the first block all but nothing, in the second all
    values = torch.arange(2048.0)[:, None]
    torch.testing.assert_close(_attend(torch.ones(1, 32), k, values), torch.tensor([[1500.0]]))
