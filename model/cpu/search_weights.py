"""Weights of the mask decoder, multiplied together for clicks that search one picture (search_decoder.py).

P are the probabilities with which cells attend to tokens, (heads * n, cells), and v the tokens' projected values,
so that cells x become x + P^T v W with W the output's weight. `_centred` takes the mean over channels away, which
a norm does anyway. Does not know pictures and prompts.
"""

import copy

import torch
from torch import Tensor, nn

from model.cpu.decoder import subpixel_product
from model.network.layers import LayerNorm2d, Mlp
from model.network.sam2 import Sam2
from model.network.transformer import TwoWayAttentionBlock, TwoWayTransformer


class SearchWeights:
    """Products of the decoder's weights, in float32 whatever the model's precision is, but for the last."""

    def __init__(self, model: Sam2) -> None:
        prompts, decoder = model.sam_prompt_encoder, model.sam_mask_decoder
        if model.no_mem_embed.dtype != torch.float32:
            prompts, decoder = copy.deepcopy(prompts).float(), copy.deepcopy(decoder).float()
        self.transformer: TwoWayTransformer = decoder.transformer
        self.layers: list[TwoWayAttentionBlock] = list(decoder.transformer.layers)  # type: ignore[arg-type]
        self.output_tokens = decoder.output_tokens()
        self.scores = decoder.scores
        self.kernels: list[Mlp] = list(decoder.output_hypernetworks_mlps)  # type: ignore[arg-type]
        self.prompts = prompts
        self.positions = prompts.image_positions().flatten(1).T.contiguous()
        self.no_mask = prompts.embed_no_mask().flatten()

        one, two = self.layers
        write_1, write_2 = one.cross_attn_image_to_token, two.cross_attn_image_to_token
        read_2, read_3 = two.cross_attn_token_to_image, self.transformer.final_attn_token_to_image
        self.num_heads = write_1.num_heads
        self.scale = (write_1.out_proj.in_features // self.num_heads) ** -0.5
        (scale_1, shift_1), (scale_2, shift_2) = (_affine(layer.norm4) for layer in (one, two))
        self.width = len(scale_1)

        out_1, out_2 = _centred(write_1.out_proj.weight), _centred(write_2.out_proj.weight)
        self.scaled = _centred(torch.diag(scale_1))
        """(c, c): normalised cells of the first layer to what the second adds to, centred, but for `shift`."""
        self.shift = _centred(shift_1 + write_2.out_proj.bias)
        scaled_out_1 = self.scaled @ out_1
        self.shift_square = float(self.shift.square().mean())
        mean = 1 / self.width

        self.first_square = self._pairs(mean * out_1.T @ out_1)
        self.scaled_square = self._pairs(mean * scaled_out_1.T @ scaled_out_1)
        self.scaled_by_shift = self._of_heads(2 * mean * scaled_out_1.T @ self.shift)
        self.second_square = self._pairs(mean * out_2.T @ out_2)
        self.second_by_first = self._pairs(2 * mean * out_2.T @ scaled_out_1)
        self.second_by_shift = self._of_heads(2 * mean * out_2.T @ self.shift)

        k_2, v_2, q_2 = (layer.weight * scale_1 for layer in (read_2.k_proj, read_2.v_proj, write_2.q_proj))
        k_3, v_3 = (layer.weight * scale_2 for layer in (read_3.k_proj, read_3.v_proj))
        self.of_first_cells = torch.cat([2 * mean * out_1.T, k_2, v_2, q_2])
        self.of_scaled_cells = torch.cat([2 * mean * scaled_out_1.T, 2 * mean * out_2.T, k_3, v_3])
        self.k_2, self.v_2, self.q_2 = (self._pairs(each @ out_1) for each in (k_2, v_2, q_2))
        self.k_3 = self._pairs(k_3 @ scaled_out_1), self._pairs(k_3 @ out_2)
        self.v_3 = self._pairs(v_3 @ scaled_out_1), self._pairs(v_3 @ out_2)
        self.k_3_shift, self.v_3_shift = (self._of_heads(each @ self.shift) for each in (k_3, v_3))
        self.v_2_bias = read_2.v_proj.weight @ shift_1 + read_2.v_proj.bias
        self.v_3_bias = read_3.v_proj.weight @ shift_2 + read_3.v_proj.bias
        self.k_2_of_place = read_2.k_proj.weight @ (self.positions + shift_1).T
        self.q_2_of_place = torch.addmm(
            write_2.q_proj.bias[:, None], write_2.q_proj.weight, (self.positions + shift_1).T
        )
        self.k_3_of_place = read_3.k_proj.weight @ (self.positions + shift_2).T

        up_1, up_norm, _, up_2, _ = decoder.output_upscaling
        weight, bias = subpixel_product(up_1)
        dtype = model.no_mem_embed.dtype
        assert isinstance(up_norm, LayerNorm2d)  # noqa: S101  # nn.Sequential is not generic
        self.up_norm = copy.deepcopy(up_norm).to(dtype)
        self.up_bias = weight @ shift_2 + bias
        self.up = weight * scale_2
        self.up_shift = self.up @ self.shift
        self.up_of_values = torch.stack(
            [
                (self.up @ out).unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)
                for out in (scaled_out_1, out_2)
            ]
        )
        """(2, heads, d, c)."""
        up_2_weight, up_2_bias = subpixel_product(up_2)
        self.up_2, self.up_2_bias = up_2_weight.to(dtype), up_2_bias.to(dtype)

    def _of_heads(self, x: Tensor) -> Tensor:
        """(inner,) to (heads, d)."""
        return x.view(self.num_heads, -1)

    def _pairs(self, x: Tensor) -> Tensor:
        """(inner, inner) to (heads, d, heads, d)."""
        return x.unflatten(1, (self.num_heads, -1)).unflatten(0, (self.num_heads, -1))


def between(x: Tensor, weights: Tensor, y: Tensor) -> Tensor:
    """Products of tokens x (b, n, h, d) and y (b, m, j, e) by weights (h, d, j, e): (b, h * n, j * m)."""
    (b, n, h, _), (_, m, j, e) = x.shape, y.shape
    projected = torch.bmm(x.permute(2, 0, 1, 3).flatten(1, 2), weights.flatten(2))
    projected = projected.view(h, b, n, j, e).permute(1, 3, 0, 2, 4).reshape(b * j, h * n, e)
    products = torch.bmm(projected, y.permute(0, 2, 3, 1).reshape(b * j, e, m))
    return products.view(b, j, h * n, m).transpose(1, 2).reshape(b, h * n, j * m)


def through(weights: Tensor, y: Tensor) -> Tensor:
    """Tokens y (b, m, j, e) by weights (h, d, j, e): (b, h, j * m, d)."""
    (b, m, j, e), (h, d) = y.shape, weights.shape[:2]
    projected = torch.bmm(
        y.permute(2, 0, 1, 3).reshape(j, b * m, e), weights.permute(2, 3, 0, 1).reshape(j, e, h * d)
    )
    return projected.view(j, b, m, h, d).permute(1, 3, 0, 2, 4).reshape(b, h, j * m, d)


def _affine(norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return norm.weight, norm.bias


def _centred(x: Tensor) -> Tensor:
    """Less the mean over the first dimension."""
    return x - x.mean(0)
