"""The mask decoder for CPUs: the same function as network/mask_decoder.py, in fewer operations.

A prompt has about eight tokens, a picture 4096 cells. So products touch the cells as little as possible:

- The first layer's projections of the picture are made once, when it is embedded (`prepare`).
- A transposed convolution of 2x2 with stride 2 is one product per cell, when the four new pixels of a cell stay
  together ("sub-pixel order"). Only the final logits are put into rows and columns.
- q (W_k x) becomes (q W_k) x: a projection of the cells is folded into the few tokens, and so for values and
  outputs (cross_attention.py). In half precision a mask is folded into the picture's projections (folded_masks.py).

Folding rounds differently from Meta's code, and with unlucky weights attention enlarges that to 1e-4 of the
logits. A chain of refinements enlarges it at every link. So in float32 refinements keep Meta's order of
operations to the last bit, up to the upscaling (tests/golden).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cpu.cross_attention import CrossAttention, View
from model.cpu.folded_masks import FoldedMasks
from model.network.layers import LayerNorm2d, Mlp
from model.network.linear import rows_linear, rows_times
from model.network.mask_decoder import DecoderOutput, MaskDecoder
from model.network.sam2 import Sam2
from model.network.transformer import TwoWayAttentionBlock
from model.types import Embedding, Prompt


class Heads:
    """The six perceptrons after the output tokens, three layers each; one layer of all six is computed at once."""

    def __init__(self, decoder: MaskDecoder) -> None:
        kernels: list[Mlp] = list(decoder.output_hypernetworks_mlps)  # type: ignore[arg-type]
        heads = [decoder.pred_obj_score_head, decoder.iou_prediction_head, *kernels]
        self._hidden = [_stacked([mlp.layers[i] for mlp in heads]) for i in range(2)]
        self._kernels = _stacked([mlp.layers[2] for mlp in kernels])
        self._last = [mlp.layers[2] for mlp in heads[:2]]

    def __call__(self, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Decoded tokens (b, n, c) to kernels (b, 4, c / 8), and to IoU (b, 4) and object score (b,) in float32."""
        x = tokens[:, : len(self._hidden[0][0])].transpose(0, 1)  # heads b c
        for weight, bias in self._hidden:
            x = torch.baddbmm(bias, x, weight).relu_()
        weight, bias = self._kernels
        kernels = torch.baddbmm(bias, x[2:], weight).transpose(0, 1)
        object_score, iou = (last(each).float() for last, each in zip(self._last, x, strict=False))
        return kernels, (iou.sigmoid(), object_score[:, 0])


def _stacked(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
    """Weights (heads, in, out) and biases (heads, 1, out) of linear layers for one product of all."""
    weights, biases = zip(*((layer.weight, layer.bias) for layer in layers), strict=True)
    return torch.stack(weights).transpose(1, 2).contiguous(), torch.stack(biases)[:, None]


@dataclass(frozen=True, slots=True)
class Floor:
    """Which masks of a prompt are not worth upscaling."""

    iou: float
    """The predicted IoU that a mask must exceed."""
    first: int
    """The first of the four masks that may be the answer: the single one is never among several."""

    @classmethod
    def of(cls, prompt: Prompt) -> "Floor | None":
        """Return a prompt's floor, if it has one."""
        return None if prompt.iou_floor is None else cls(prompt.iou_floor, int(prompt.multimask_output))


def mask_of(prompt: Prompt) -> Tensor | None:
    """Return a prompt's mask, float32, if it has one."""
    if prompt.mask_logits is None:
        return None
    return torch.from_numpy(np.require(prompt.mask_logits, np.float32, ["C", "W"]))


class CpuDecoder:
    """Decodes prompts of equal token counts: tokens of all prompts together, cells one prompt at a time."""

    def __init__(self, model: Sam2) -> None:
        self._prompts, self._decoder = model.sam_prompt_encoder, model.sam_mask_decoder
        transformer = self._decoder.transformer
        self._positions = self._prompts.image_positions().flatten(1).T.contiguous()
        self._no_mask = self._prompts.embed_no_mask().flatten()
        self._layers: list[TwoWayAttentionBlock] = list(transformer.layers)  # type: ignore[arg-type]
        self._to_image = [
            *(CrossAttention(layer.cross_attn_token_to_image) for layer in self._layers),
            CrossAttention(transformer.final_attn_token_to_image),
        ]
        self._from_image = [CrossAttention(layer.cross_attn_image_to_token) for layer in self._layers]
        self._first_projections = (self._to_image[0].k, self._to_image[0].v, self._from_image[0].q)
        self._folded_masks: FoldedMasks | None = None
        if self._no_mask.dtype != torch.float32:
            self._folded_masks = FoldedMasks(self._prompts, self._first_projections)
        up_1, up_norm, _, up_2, _ = self._decoder.output_upscaling
        self._up_1, self._up_2 = subpixel_product(up_1), subpixel_product(up_2)
        self._up_norm: LayerNorm2d = up_norm  # type: ignore[assignment]  # nn.Sequential is not generic
        self._heads = Heads(self._decoder)

    def prepare(self, image_rows: Tensor) -> tuple[Tensor, ...]:
        """Return `View.first` for prompts without a mask. In half precision, prompts with one start from it too."""
        return self._project_first(image_rows + self._no_mask, bias_last=False)

    def decode(
        self,
        embeddings: Sequence[Embedding],
        sparse: Tensor,
        masks: Sequence[Tensor | None],
        *,
        keeps_order: bool,
        floors: Sequence[Floor | None] = (),
    ) -> DecoderOutput:
        """One prompt for each embedding: tokens `sparse` (b, n, c), and logits (4 h, 4 w) where it has a mask.

        `keeps_order` selects Meta's order of operations, which takes half as long again. The logits stay in
        sub-pixel order, (b, 4, cells, 16), because most of them are not needed. Where no mask is above the
        prompt's floor, if it has one, nothing is upscaled and logits are 0.
        """
        tokens = torch.cat([self._decoder.output_tokens().expand(len(sparse), -1, -1), sparse], dim=1)
        folds = not keeps_order and self._to_image[-1].folds(tokens.shape[1])
        views = self._first_views(embeddings, masks, keeps_order=keeps_order, folds=folds)
        tokens = self._transform(tokens, views, folds=folds)
        if keeps_order:
            kernels, scores = self._decoder.kernels(tokens), self._decoder.scores(tokens)
        else:
            kernels, scores = self._heads(tokens)
        logits = tokens.new_empty(len(tokens), self._positions.shape[0] * 16, kernels.shape[1])
        iou = scores[0].tolist()
        parts = zip(views, embeddings, kernels, logits, iou, floors or [None] * len(iou), strict=True)
        for view, embedding, kernel, out, of_masks, floor in parts:
            if floor is not None and max(of_masks[floor.first :]) <= floor.iou:
                out.zero_()
            else:
                self._weigh_upscaled(view, embedding, kernel, out=out)
        by_mask = logits.float().unflatten(1, (-1, 16)).permute(0, 3, 1, 2)
        return DecoderOutput(by_mask, *scores)

    def _project_first(self, rows: Tensor, *, bias_last: bool) -> tuple[Tensor, ...]:
        placed = rows + self._positions
        k, v, q = (
            rows_linear(x, layer.weight, layer.bias, bias_last=bias_last)
            for layer, x in zip(self._first_projections, (placed, rows, placed), strict=True)
        )
        if rows.dtype == torch.float32:
            return k, v, q.T.contiguous()
        return (
            k.T.contiguous(),
            v.T.contiguous(),
            q.T.contiguous(),
        )  # otherwise copied in each product with tokens

    def _first_views(
        self,
        embeddings: Sequence[Embedding],
        masks: Sequence[Tensor | None],
        *,
        keeps_order: bool,
        folds: bool,
    ) -> list[View]:
        # For several prompts Meta repeats the picture. That changes its layout, and PyTorch then adds biases last.
        repeats = len(embeddings) > 1 and all(e is embeddings[0] for e in embeddings)
        bias_last = repeats and keeps_order
        plain: View | None = None
        views = []
        for embedding, mask in zip(embeddings, masks, strict=True):
            if mask is not None:
                views.append(self._masked_view(embedding, mask, bias_last=bias_last, folds=folds))
                continue
            if plain is None or not repeats:
                plain = self._plain_view(embedding, bias_last=bias_last, folds=folds)
            views.append(replace(plain))
        return views

    def _masked_view(self, embedding: Embedding, mask: Tensor, *, bias_last: bool, folds: bool) -> View:
        """A picture for a prompt with a mask."""
        if self._folded_masks is None:
            rows = embedding.image_rows + self._prompts.embed_masks(mask[None, None])[0].flatten(1).T
            return View(rows, self._project_first(rows, bias_last=bias_last))
        channels = self._folded_masks.channels(mask)
        rows = self._folded_masks.on_rows(embedding.image_rows, channels)
        first = self._folded_masks.on_projections(embedding.first_projections, channels)
        if folds:
            return View(rows, first, owed=self._folded_masks.bias)
        return View(rows.add_(self._folded_masks.bias), first)

    def _plain_view(self, embedding: Embedding, *, bias_last: bool, folds: bool) -> View:
        """A picture for a prompt without a mask."""
        if folds and embedding.image_rows.dtype != torch.float32:  # saves a pass; float32 keeps its rounding
            return View(embedding.image_rows, embedding.first_projections, owed=self._no_mask)
        rows = embedding.image_rows + self._no_mask
        return View(
            rows, self._project_first(rows, bias_last=True) if bias_last else embedding.first_projections
        )

    def _transform(self, tokens: Tensor, views: Sequence[View], *, folds: bool) -> Tensor:
        """The two-way transformer: tokens (b, n, c) to tokens; the views' rows are updated."""
        positions = tokens
        for i, layer in enumerate(self._layers):
            tokens = layer.attend_to_self(tokens, positions)
            to_image = layer.cross_attn_token_to_image
            seen = self._read(i, to_image.q_proj(tokens + positions), views, folds=folds)
            tokens = layer.norm2(tokens + to_image.out_proj(seen))
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            from_image = layer.cross_attn_image_to_token
            k, v = from_image.k_proj(tokens + positions), from_image.v_proj(tokens)
            for view, rows in zip(views, self._write(i, k, v, views, folds=folds), strict=True):
                view.rows = _normalise(layer.norm4, rows)
                view.placed = view.rows + self._positions
        last = self._decoder.transformer
        q = last.final_attn_token_to_image.q_proj(tokens + positions)
        seen = self._read(len(self._layers), q, views, folds=folds)
        return last.norm_final_attn(tokens + last.final_attn_token_to_image.out_proj(seen))

    def _read(self, i: int, q: Tensor, views: Sequence[View], *, folds: bool) -> Tensor:
        """What tokens q (b, n, inner) take from the cells in layer i: (b, n, inner)."""
        attention = self._to_image[i]
        if folds:
            return attention.read(q, views) if i > 0 else attention.first_read(q, views)
        return torch.stack(
            [
                attention.attend(each, *self._keys_and_values(i, view))
                for each, view in zip(q, views, strict=True)
            ]
        )

    def _keys_and_values(self, i: int, view: View) -> tuple[Tensor, Tensor]:
        """(cells, inner) each."""
        if i == 0:
            k, v, _ = view.first
            return (k, v) if k.dtype == torch.float32 else (k.T, v.T)
        attention = self._to_image[i]
        return _project(attention.k, view.placed), _project(attention.v, view.rows)

    def _write(self, i: int, k: Tensor, v: Tensor, views: Sequence[View], *, folds: bool) -> Iterator[Tensor]:
        """Each prompt's cells, plus what they take from tokens k and v (b, n, inner) in layer i: (cells, c)."""
        attention = self._from_image[i]
        if folds:
            scores = attention.scores(k, views) if i > 0 else attention.first_scores(k, views)
            yield from attention.write(scores, v, views)
            return
        for view, *each in zip(views, k, v, strict=True):
            q = _project(attention.q, view.placed) if i > 0 else view.first[2].T.contiguous()
            yield _project(attention.out, attention.attend(q, *each)).add_(view.rows)

    def _weigh_upscaled(self, view: View, embedding: Embedding, kernels: Tensor, *, out: Tensor) -> None:
        """Upscale the cells and weigh them with kernels (4, c / 8), into out (16 * cells, 4)."""
        gelu_ = torch.ops.aten.gelu_  # in place: torch.nn.functional has none
        x = rows_times(view.rows, *self._up_1).view_as(embedding.feat_s1_rows).add_(embedding.feat_s1_rows)
        x = gelu_(_normalise(self._up_norm, x)).flatten(0, 1)
        x = rows_times(x, *self._up_2).view_as(embedding.feat_s0_rows).add_(embedding.feat_s0_rows)
        torch.mm(gelu_(x).flatten(0, 2), kernels.T, out=out)


def _project(layer: nn.Linear, rows: Tensor) -> Tensor:
    return rows_linear(rows, layer.weight, layer.bias, bias_last=False)


def _normalise(norm: nn.LayerNorm | LayerNorm2d, rows: Tensor) -> Tensor:
    """Layer normalisation over the last dimension."""
    return F.layer_norm(rows, norm.weight.shape, norm.weight, norm.bias, norm.eps)


def subpixel_product(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (4 * out, in) and bias (4 * out,) that make one cell's four new pixels."""
    assert isinstance(layer, nn.ConvTranspose2d)  # noqa: S101  # nn.Sequential is not generic
    assert layer.bias is not None  # noqa: S101
    weight = layer.weight.permute(2, 3, 1, 0).reshape(4 * layer.out_channels, layer.in_channels)
    return weight.contiguous(), layer.bias.repeat(4)
