"""Sine encodings and rotations: where a cell is, and how long ago a frame was.

"Attention Is All You Need" (arXiv 1706.03762) for the sines, RoFormer (arXiv 2104.09864) for the rotations, both
along two axes. Pure functions; nothing is learned here.
"""

import math

import torch
from torch import Tensor

TEMPERATURE = 10_000
_EPSILON = 1e-6


def sine_map(side: int, channels: int, *, device: torch.device) -> Tensor:
    """(side * side, channels): half of the channels say the row, half the column, sine and cosine alternating."""
    along = torch.arange(1, side + 1, dtype=torch.float32, device=device) / (side + _EPSILON) * 2 * math.pi
    angles = along[:, None] / _wavelengths(channels // 2, device)
    waves = torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=2).flatten(1)  # side channels/2
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def sine_line(positions: Tensor, channels: int) -> Tensor:
    """Positions (n,) to (n, channels): all sines, then all cosines."""
    angles = positions[:, None] / _wavelengths(channels // 2, positions.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def axial_rotations(side: int, channels: int, *, device: torch.device) -> Tensor:
    """Rotations (side * side, channels / 2) as complex numbers: half of the pairs turn with x, half with y."""
    exponents = torch.arange(0, channels, 4, dtype=torch.float32, device=device) / channels
    frequencies = 1 / TEMPERATURE**exponents
    along = torch.arange(side, dtype=torch.float32, device=device)
    y, x = torch.meshgrid(along, along, indexing="ij")
    angles = torch.cat([place.reshape(-1, 1) * frequencies for place in (x, y)], dim=1)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(rows: Tensor, rotations: Tensor) -> Tensor:
    """Turn neighbouring pairs of channels of rows (..., n, c); n is a multiple of the rotations' number.

    In float32, whatever the rows are: half precision would blur the positions.
    """
    pairs = torch.view_as_complex(rows.float().unflatten(-1, (-1, 2)))
    turned = pairs.unflatten(-2, (-1, len(rotations))) * rotations
    return torch.view_as_real(turned).flatten(-2).flatten(-3, -2).to(rows.dtype)


def _wavelengths(count: int, device: torch.device) -> Tensor:
    """(count,): each length twice, once for the sine and once for the cosine."""
    pairs = torch.arange(count, dtype=torch.float32, device=device).div(2, rounding_mode="floor")
    return TEMPERATURE ** (2 * pairs / count)
