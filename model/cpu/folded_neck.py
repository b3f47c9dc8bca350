"""The neck for CPUs in half precision: what follows it is folded into its convolutions. Does not know the trunk.

conv_s0 of the decoder takes 256 channels of the neck's finest map, which are made of 96 and become 32. Both are
products of a pixel's channels, so one product does: 96 to 32. The same holds for conv_s1, and adding the embedding
that says "no memory" is adding to a bias. The folded weights are rounded once.
"""

import torch
from torch import Tensor, nn

from model.network.image_encoder import LateralConv
from model.network.sam2 import Sam2


class FoldedNeck(nn.Module):
    """One layer for each stage: to feat_s0, feat_s1 and twice to image_embed."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        convs: list[LateralConv] = list(model.image_encoder.neck.convs)  # type: ignore[arg-type]
        coarsest, (weight, bias), stride_8, stride_4 = (_weight_and_bias(each.conv) for each in convs)
        decoder = model.sam_mask_decoder
        layers = (
            _folded(stride_4, _weight_and_bias(decoder.conv_s0)),
            _folded(stride_8, _weight_and_bias(decoder.conv_s1)),
            (weight, bias + model.no_mem_embed[0, 0]),
            coarsest,
        )
        self.layers = nn.ModuleList(_layer(*each, dtype=model.no_mem_embed.dtype) for each in layers)

    def forward(self, stage: int, x: Tensor) -> Tensor:
        """What a map of a stage (..., dim) adds to its map of the embedding: (..., dim_out)."""
        return self.layers[stage](x)


def _folded(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return second[0] @ first[0], second[0] @ first[1] + second[1]


def _weight_and_bias(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Of a 1x1 convolution: (out, in) and (out,), in float32."""
    assert conv.bias is not None  # noqa: S101  # for the type checker
    return conv.weight[:, :, 0, 0].float(), conv.bias.float()


def _layer(weight: Tensor, bias: Tensor, *, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = (nn.Parameter(t.to(dtype), requires_grad=False) for t in (weight, bias))
    return layer
