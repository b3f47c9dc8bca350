"""A prompt's mask for the CPU decoder in half precision: the 16 channels from which its map is computed.

The layer that computes the map from them is linear, and so are the first projections of the picture plus the
map. Together they are one product, a tenth of the work. Does not know about attention.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.layers import LayerNorm2d
from model.network.prompt_encoder import PromptEncoder


class FoldedMasks:
    """What a mask adds to a picture's cells, and to projections of them that were made without a mask.

    Small maps are computed in float32, which costs nothing here. Float32 decoders keep Meta's order of operations
    instead (decoder.py).
    """

    def __init__(self, prompts: PromptEncoder, projections: Sequence[nn.Linear]) -> None:
        conv_1, norm_1, _, conv_2, norm_2, _, last = prompts.mask_downscaling
        self._first, self._second = _Halving(conv_1, norm_1), _Halving(conv_2, norm_2)
        weight = last.get_parameter("weight").flatten(1)
        self.bias = last.get_parameter("bias")
        """(c,): to be added to every row after `on_rows`."""
        self._weight = weight.T.contiguous()  # 16 c
        lacking = self.bias.float() - prompts.embed_no_mask().flatten().float()
        products = [each.weight.float() for each in projections]
        self._widths = [len(each) for each in products]
        self._projected = torch.cat([each @ weight.float() for each in products]).to(weight.dtype)
        self._projected_bias = torch.cat([each @ lacking for each in products]).to(weight.dtype)[:, None]

    def channels(self, logits: Tensor) -> Tensor:
        """Mask logits (4 h, 4 w) to the channels of their map, (h * w, 16)."""
        h, w = (length // 4 for length in logits.shape)
        # Cells, the quarters of each, the pixels of each.
        pixels = logits.float().view(h, 2, 2, w, 2, 2).permute(0, 3, 1, 4, 2, 5)
        quarters = self._first(pixels.reshape(-1, 4))
        return self._second(quarters.view(h * w, -1)).to(self._weight.dtype)

    def on_rows(self, rows: Tensor, channels: Tensor) -> Tensor:
        """A picture's cells (cells, c) plus the mask, without `bias`."""
        return torch.addmm(rows, channels, self._weight)

    def on_projections(self, projections: Sequence[Tensor], channels: Tensor) -> tuple[Tensor, ...]:
        """Projections (inner, cells) of a picture without a mask to those with it."""
        added = torch.addmm(self._projected_bias, self._projected, channels.T).split(self._widths)
        return tuple(one + other for one, other in zip(projections, added, strict=True))


class _Halving:
    """A convolution of 2x2 with stride 2, layer normalisation and GELU, on rows that hold their four pixels."""

    def __init__(self, convolution: nn.Module, norm: nn.Module) -> None:
        self._weight = convolution.get_parameter("weight").float().permute(0, 2, 3, 1).flatten(1)
        self._bias = convolution.get_parameter("bias").float()
        self._scale, self._shift = (norm.get_parameter(name).float() for name in ("weight", "bias"))
        assert isinstance(norm, LayerNorm2d)  # noqa: S101  # nn.Sequential is not generic
        self._eps = norm.eps

    def __call__(self, rows: Tensor) -> Tensor:
        """(m, 4 * in) to (m, out)."""
        x = F.linear(rows, self._weight, self._bias)
        return F.gelu(F.layer_norm(x, self._scale.shape, self._scale, self._shift, self._eps))
