"""The mask decoder: an image embedding and prompt tokens to mask logits and scores.

Segment Anything (arXiv 2304.02643, A) with the high-resolution features and the object score of SAM 2
(arXiv 2408.00714, D.1).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.config import Sam2Config
from model.network.layers import LayerNorm2d, Mlp, Tokens
from model.network.transformer import TwoWayTransformer


class DecoderOutput(NamedTuple):
    """All four masks of every prompt, in float32: token 0 is the single mask, 1 to 3 the multimask output."""

    logits: Tensor
    """(b, 4, h, w)."""
    iou: Tensor
    """(b, 4), 0..1."""
    object_score: Tensor
    """(b,), a logit."""


class MaskDecoder(nn.Module):
    """Parameters and forward pass of the mask decoder."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        dim, decoder = config.embed_dim, config.decoder
        num_mask_tokens = decoder.num_multimask_outputs + 1
        self.transformer = TwoWayTransformer(
            dim,
            depth=decoder.depth,
            num_heads=decoder.num_heads,
            mlp_dim=decoder.mlp_dim,
            downsample_rate=decoder.attention_downsample_rate,
        )
        self.iou_token = Tokens(1, dim)
        self.mask_tokens = Tokens(num_mask_tokens, dim)
        self.obj_score_token = Tokens(1, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.conv_s0 = nn.Conv2d(dim, dim // 8, kernel_size=1)
        self.conv_s1 = nn.Conv2d(dim, dim // 4, kernel_size=1)
        self.output_hypernetworks_mlps = nn.ModuleList(
            Mlp(dim, dim, dim // 8, depth=3, activation=F.relu) for _ in range(num_mask_tokens)
        )
        head_depth = decoder.iou_head_depth
        self.iou_prediction_head = Mlp(dim, dim, num_mask_tokens, depth=head_depth, activation=F.relu)
        self.pred_obj_score_head = Mlp(dim, dim, 1, depth=3, activation=F.relu)

    def forward(
        self,
        image_embed: Tensor,
        feat_s0: Tensor,
        feat_s1: Tensor,
        *,
        sparse: Tensor,
        dense: Tensor,
        image_positions: Tensor,
    ) -> DecoderOutput:
        """Decode b prompts at once.

        `image_embed` (b, c, h, w), `feat_s0` (b, c / 8, 4 h, 4 w), `feat_s1` (b, c / 4, 2 h, 2 w), prompt
        tokens `sparse` (b, n, c), prompt maps `dense` (b, c, h or 1, w or 1), `image_positions` (c, h, w).
        """
        output, _ = self.run(
            image_embed, feat_s0, feat_s1, sparse=sparse, dense=dense, image_positions=image_positions
        )
        return output

    def run(
        self,
        image_embed: Tensor,
        feat_s0: Tensor,
        feat_s1: Tensor,
        *,
        sparse: Tensor,
        dense: Tensor,
        image_positions: Tensor,
    ) -> tuple[DecoderOutput, Tensor]:
        """What `forward` answers, and the decoded mask tokens (b, 4, c), which object pointers are made of."""
        h, w = image_embed.shape[2:]
        tokens = torch.cat([self.output_tokens().expand(sparse.shape[0], -1, -1), sparse], dim=1)
        cells = (image_embed + dense).flatten(2).transpose(1, 2)  # b h*w c
        tokens, cells = self.transformer(tokens, cells, image_positions=image_positions.flatten(1).T[None])
        features = self.upscale(cells.transpose(1, 2).unflatten(2, (h, w)), feat_s0, feat_s1)
        logits = (self.kernels(tokens) @ features.flatten(2)).unflatten(2, features.shape[2:])
        mask_tokens = tokens[:, 2 : 2 + len(self.mask_tokens.weight)]
        return DecoderOutput(logits.float(), *self.scores(tokens)), mask_tokens

    def output_tokens(self) -> Tensor:
        """(6, c): the tokens that come before a prompt's: object score, IoU, the single mask, three masks."""
        return torch.cat([self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight])

    def kernels(self, tokens: Tensor) -> Tensor:
        """Decoded tokens (b, n, c) to what each mask weighs the upscaled features with, (b, 4, c / 8)."""
        mlps = enumerate(self.output_hypernetworks_mlps, start=2)
        return torch.stack([mlp(tokens[:, i]) for i, mlp in mlps], dim=1)

    def scores(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Decoded tokens (b, n, c) to IoU (b, 4) and object score (b,), in float32."""
        iou = self.iou_prediction_head(tokens[:, 1]).float().sigmoid()
        return iou, self.pred_obj_score_head(tokens[:, 0])[:, 0].float()

    def upscale(self, image: Tensor, feat_s0: Tensor, feat_s1: Tensor) -> Tensor:
        """(b, c, h, w) to (b, c / 8, 4 h, 4 w), the high-resolution features added on the way."""
        up_1, norm, gelu, up_2, _ = self.output_upscaling
        return gelu(up_2(gelu(norm(up_1(image) + feat_s1))) + feat_s0)


def stability(logits: Tensor, delta: float) -> Tensor:
    """IoU of the masks thresholded at +delta and at -delta: (..., h, w) to (...), 1 where both are empty."""
    inner = (logits > delta).sum((-2, -1))
    outer = (logits > -delta).sum((-2, -1))
    return torch.where(outer > 0, inner / outer, 1.0)


def choose_masks(
    output: DecoderOutput, *, multimask: Sequence[bool], delta: float, threshold: float
) -> list[slice]:
    """Choose which of the four masks each prompt returns, as in Meta's image predictor.

    With multimask: tokens 1 to 3. Without: token 0 or, if that is not stable, the best of tokens 1 to 3 by
    predicted IoU.
    """
    chosen = [slice(1, output.iou.shape[1])] * len(multimask)
    singles = [i for i, several in enumerate(multimask) if not several]
    if singles:
        is_stable = stability(output.logits[singles, 0], delta) >= threshold
        best = output.iou[singles, 1:].argmax(dim=1) + 1
        for i, token in zip(singles, torch.where(is_stable, 0, best).tolist(), strict=True):
            chosen[i] = slice(token, token + 1)
    return chosen
