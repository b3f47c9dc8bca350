"""Linear layers over many rows, on a CPU by oneDNN.

PyTorch sends float32 products to MKL, which reached half of the rate of some AMD processors; 1x1 convolutions
of channels-last maps go to oneDNN, which reaches all of it. Does not know what the rows are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 192
"""Terms that MKL sums up in registers before it adds them to the result (AVX2 kernels, float32)."""

MIN_ROWS = 512
"""Fewer rows than this are left to PyTorch: setting up a convolution would cost more than it saves."""


def rows_times(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows (m, k), which may be columns of a wider matrix, times weight (n, k) transposed, plus bias: (m, n)."""
    return F.conv2d(_as_map(rows), weight[:, :, None, None], bias).permute(0, 2, 3, 1).view(len(rows), -1)


def softmax_over_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """Softmax over the m rows of what `rows_times` makes of rows (m, k) and weight (n, k), transposed: (n, m)."""
    if rows.dtype == torch.float32:
        return rows_times(rows, weight).softmax(0).T
    return (weight @ rows.T).softmax(1)


def transposed_rows_times(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `rows_times` makes of rows (m, k) and weight (n, k), n much less than m, transposed: (n, m)."""
    if rows.dtype == torch.float32:  # MKL's product is slower than oneDNN's with a copy behind it
        return rows_times(rows, weight, bias).T.contiguous()
    return torch.addmm(bias[:, None], weight, rows.T)


def plus_columns_times(rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
    """Rows (m, n), plus columns (k, m) transposed, k much less than m, times weight (k, n): (m, n)."""
    if rows.dtype == torch.float32:
        return rows_times(columns.T.contiguous(), weight.T.contiguous()).add_(rows)
    return torch.addmm(rows, columns.T, weight)


def rows_linear(rows: Tensor, weight: Tensor, bias: Tensor, *, bias_last: bool) -> Tensor:
    """Like `rows_times`, but equal to MKL's float32 product to the last bit.

    Sums depend on their order. MKL adds blocks of k one after the other to the bias: two halves where two blocks
    hold all, else blocks of BLOCK. PyTorch has the bias added last to input that is not contiguous. Meta's numbers
    were made that way, and attention turns the last bit of an early layer into the fourth digit of a mask (see
    tests/golden).
    """
    k = weight.shape[1]
    if rows.dtype != torch.float32 or k <= BLOCK:
        return rows_times(rows, weight, bias)
    block = block_of(k)
    first, *others = zip(rows.split(block, dim=1), weight.split(block, dim=1), strict=True)
    out = rows_times(*first, None if bias_last else bias)
    for part in others:
        out += rows_times(*part)
    return out.add_(bias) if bias_last else out


def block_of(k: int) -> int:
    """So many of k terms does MKL sum up before it adds them to the result."""
    return -(-k // 2) if BLOCK < k <= 2 * BLOCK else BLOCK


def _as_map(rows: Tensor) -> Tensor:
    """Rows (m, k) as a picture of m pixels and k channels, channels last."""
    return rows[None, :, None].permute(0, 3, 1, 2)


class Linear(nn.Linear):
    """nn.Linear for maps (b, h, w, k), faster on a CPU in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, in_features) to (b, h, w, out_features)."""
        rows = x.shape[:-1].numel()
        if x.device.type != "cpu" or x.dtype != torch.float32 or rows < MIN_ROWS:
            return super().forward(x)
        out = rows_linear(x.reshape(rows, -1), self.weight, self.bias, bias_last=not x.is_contiguous())
        return out.view(*x.shape[:-1], -1)
