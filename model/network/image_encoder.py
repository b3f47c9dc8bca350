"""The image encoder: Hiera and the feature pyramid neck on top of it."""

import torch.nn.functional as F
from torch import Tensor, nn

from model.network.config import Sam2Config
from model.network.hiera import Hiera


class LateralConv(nn.Module):
    """A 1x1 convolution to the neck's width; a module of its own because checkpoints call it `conv`."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim_out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, dim, h, w) to (b, dim_out, h, w)."""
        return self.conv(x)


class FpnNeck(nn.Module):
    """Feature pyramid neck: every stage to one width, the coarsest added to the one above it.

    The coarsest map itself is dropped ("scalp" in Meta's configuration); the two finest get nothing from above.
    """

    def __init__(self, stage_dims: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(LateralConv(stage_dim, dim) for stage_dim in reversed(stage_dims))

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Four maps, finest first, to the three at strides 4, 8 and 16, all (b, dim, h, w)."""
        coarsest, stride_16, stride_8, stride_4 = (
            conv(x) for conv, x in zip(self.convs, reversed(stages), strict=True)
        )
        return stride_4, stride_8, stride_16 + F.interpolate(coarsest, scale_factor=2.0, mode="nearest")


class ImageEncoder(nn.Module):
    """A normalised picture to feature maps."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.trunk = Hiera(config.trunk)
        self.neck = FpnNeck(config.trunk.stage_dims, config.embed_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, 3, s, s) to maps at strides 4, 8 and 16, all (b, c, h, w)."""
        return self.neck(self.trunk(images))
