"""The memory encoder: a frame's features and an object's mask on it to the memory of that object on that frame.

SAM 2 (arXiv 2408.00714, 4 and D.1), with the blocks of ConvNeXt (arXiv 2201.03545).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.config import VideoConfig
from model.network.layers import LayerNorm2d
from model.network.linear import Linear

_STRIDE = 16
"""Pixels of the model's picture to a cell of its embedding."""


class MaskDownsampler(nn.Module):
    """A mask in pixels of the model's picture to one vector for each cell."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for _ in range(int(math.log2(_STRIDE))):
            layers += [
                nn.Conv2d(channels, 4 * channels, kernel_size=3, stride=2, padding=1),
                LayerNorm2d(4 * channels),
                nn.GELU(),
            ]
            channels *= 4
        self.encoder = nn.Sequential(*layers, nn.Conv2d(channels, dim, kernel_size=1))

    def forward(self, mask: Tensor) -> Tensor:
        """(b, 1, 16 h, 16 w) to (b, c, h, w)."""
        return self.encoder(mask)


class ConvNextBlock(nn.Module):
    """A depthwise convolution, then a perceptron for each cell."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = Linear(dim, 4 * dim)
        self.pwconv2 = Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Shape in, shape out: (b, c, h, w)."""
        cells = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)  # b h w c
        return x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(cells)))).permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """A few ConvNeXt blocks."""

    def __init__(self, dim: int, *, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNextBlock(dim) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Shape in, shape out: (b, c, h, w)."""
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Features plus mask, fused, in few channels."""

    def __init__(self, dim: int, config: VideoConfig) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownsampler(dim)
        self.pix_feat_proj = nn.Conv2d(dim, dim, kernel_size=1)
        self.fuser = Fuser(dim, depth=config.fuser_depth)
        self.out_proj = nn.Conv2d(dim, config.memory_dim, kernel_size=1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features (b or 1, c, h, w) and masks (b, 1, 16 h, 16 w) to memories (b, m, h, w)."""
        return self.out_proj(self.fuser(self.pix_feat_proj(features) + self.mask_downsampler(mask)))
