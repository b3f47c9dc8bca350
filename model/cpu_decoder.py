"""The mask decoder as it runs on a CPU: the same function as mask_decoder.py, in fewer operations.

A prompt has some eight tokens, a picture 4096 cells. So products touch the cells as little as they can:

- The first layer's projections of the picture are made once, when it is embedded (`prepare`).
- A transposed convolution of 2x2 with stride 2 is one product per cell, when the four new pixels of a cell stay
  together ("sub-pixel order"). Only the final logits are put into rows and columns.
- q (W_k x) becomes (q W_k) x: a projection of the cells is folded into the few tokens, and so for values and
  outputs.

Folding rounds otherwise than Meta's code, and with unlucky weights attention enlarges that to 5e-5 of the logits. A
chain of refinements enlarges it at every link, so in float32 it keeps Meta's order of operations to the last bit
instead, up to the upscaling (tests/golden).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import Attention, LayerNorm2d, Mlp
from model.linear import columns_times, rows_linear, rows_times, transposed_rows_times
from model.mask_decoder import DecoderOutput, MaskDecoder
from model.sam2 import Sam2
from model.transformer import TwoWayAttentionBlock
from model.types import Embedding


@dataclass(slots=True)
class _View:
    """The picture as one prompt sees it while it is decoded."""

    rows: Tensor
    """(cells, c)."""
    first: tuple[Tensor, ...]
    """Keys, values and queries of the first layer, (cells, c / 2) each."""
    placed: Tensor | None = None
    """The rows with their positions added, from the second layer on."""


class _CrossAttention:
    """Attention between a prompt's n tokens and a picture's cells, in either direction, one prompt at a time."""

    def __init__(self, attention: Attention) -> None:
        self.q, self.k, self.v, self.out = (
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            attention.out_proj,
        )
        self._heads = attention.num_heads
        self._inner = self.q.out_features
        self._scale = (self._inner // self._heads) ** -0.5
        self._q_by_head, self._k_by_head = (
            layer.weight.view(self._heads, -1, layer.in_features) for layer in (self.q, self.k)
        )  # heads d c
        self._v_by_head = self.v.weight.view(self._heads, -1, self.v.in_features).transpose(1, 2)  # heads c d
        self._out_by_head = self.out.weight.unflatten(1, (self._heads, -1)).permute(1, 2, 0)  # heads d c

    def folds(self, num_tokens: int) -> bool:
        """Whether folding is cheaper than projecting: heads * tokens products against the inner width."""
        return self._heads * num_tokens <= self._inner

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of projected q (n, inner), k and v (m, inner), without out_proj: (n, inner)."""
        q, k, v = (self._split(x)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)

    def scores(self, tokens: Tensor, cells: Tensor) -> Tensor:
        """Scores (heads, n, cells) of projected tokens (n, inner) and projected cells (cells, inner)."""
        return torch.bmm(self._split(tokens * self._scale), self._split(cells).transpose(1, 2))

    def scores_by_folded_q(self, placed: Tensor, k: Tensor) -> Tensor:
        """Scores (heads, n, cells) of cells (cells, c) and projected k (n, inner)."""
        k = self._split(k * self._scale)
        folded = torch.bmm(k, self._q_by_head)
        bias = torch.bmm(k, self.q.bias.view(self._heads, -1, 1))
        scores = transposed_rows_times(placed, folded.flatten(0, 1), bias.flatten())
        return scores.unflatten(0, (self._heads, -1))

    def read(self, q: Tensor, placed: Tensor, rows: Tensor) -> Tensor:
        """What projected q (n, inner) takes from the cells, k_proj and v_proj folded: (n, inner).

        k_proj's bias adds the same to all scores of a token, and the softmax over cells does not see it.
        """
        folded = torch.bmm(self._split(q * self._scale), self._k_by_head)  # heads n c
        probabilities = transposed_rows_times(placed, folded.flatten(0, 1)).softmax(1)  # heads*n cells
        mixed = (probabilities @ rows).view_as(folded)
        return torch.bmm(mixed, self._v_by_head).transpose(0, 1).flatten(1) + self.v.bias

    def write(self, scores: Tensor, v: Tensor) -> Tensor:
        """What the cells take from the tokens' projected v (n, inner), out_proj folded: (cells, c)."""
        values = torch.bmm(self._split(v), self._out_by_head).flatten(0, 1)
        # Over the middle dimension, because softmax is slow over a last one as short as n.
        return columns_times(scores.softmax(1).flatten(0, 1), values, self.out.bias)

    def _split(self, x: Tensor) -> Tensor:
        """(m, inner) to (heads, m, inner / heads)."""
        return x.view(len(x), self._heads, -1).transpose(0, 1)


class Heads:
    """The perceptrons behind the output tokens, six of three layers, each layer of all six at once."""

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


class CpuDecoder:
    """Decodes prompts of equal token counts: tokens of all prompts together, cells one prompt at a time."""

    def __init__(self, model: Sam2) -> None:
        prompts, self._decoder = model.sam_prompt_encoder, model.sam_mask_decoder
        transformer = self._decoder.transformer
        self._positions = prompts.image_positions().flatten(1).T.contiguous()
        self._no_mask = prompts.embed_no_mask().flatten()
        self._layers: list[TwoWayAttentionBlock] = list(transformer.layers)  # type: ignore[arg-type]
        self._to_image = [_CrossAttention(layer.cross_attn_token_to_image) for layer in self._layers]
        self._from_image = [_CrossAttention(layer.cross_attn_image_to_token) for layer in self._layers]
        self._last_look = _CrossAttention(transformer.final_attn_token_to_image)
        up_1, up_norm, _, up_2, _ = self._decoder.output_upscaling
        self._up_1, self._up_2 = subpixel_product(up_1), subpixel_product(up_2)
        self._up_norm: LayerNorm2d = up_norm  # type: ignore[assignment]  # nn.Sequential is not generic
        self._heads = Heads(self._decoder)

    def prepare(self, image_rows: Tensor) -> tuple[Tensor, ...]:
        """Keys, values and queries of the first layer for any prompt without a mask, (cells, c / 2) each."""
        return self._project_first(image_rows + self._no_mask, bias_last=False)

    def decode(
        self,
        embeddings: Sequence[Embedding],
        sparse: Tensor,
        mask_maps: Sequence[Tensor | None],
        *,
        keeps_order: bool,
    ) -> DecoderOutput:
        """One prompt for each embedding: tokens `sparse` (b, n, c), and a map (c, h, w) where it has a mask.

        `keeps_order` asks for Meta's order of operations, which takes half as long again. The logits stay in
        sub-pixel order, (b, 4, cells, 16), for most of them are not asked for.
        """
        tokens = torch.cat([self._decoder.output_tokens().expand(len(sparse), -1, -1), sparse], dim=1)
        views = self._first_views(embeddings, mask_maps, keeps_order=keeps_order)
        folds = not keeps_order and self._last_look.folds(tokens.shape[1])
        tokens = self._transform(tokens, views, folds=folds)
        if keeps_order:
            kernels, scores = self._decoder.kernels(tokens), self._decoder.scores(tokens)
        else:
            kernels, scores = self._heads(tokens)
        logits = tokens.new_empty(len(tokens), self._positions.shape[0] * 16, kernels.shape[1])
        for each, out in zip(zip(views, embeddings, kernels, strict=True), logits, strict=True):
            self._weigh_upscaled(*each, out=out)
        by_mask = logits.float().unflatten(1, (-1, 16)).permute(0, 3, 1, 2)
        return DecoderOutput(by_mask, *scores)

    def _project_first(self, rows: Tensor, *, bias_last: bool) -> tuple[Tensor, ...]:
        placed = rows + self._positions
        pairs = (
            (self._to_image[0].k, placed),
            (self._to_image[0].v, rows),
            (self._from_image[0].q, placed),
        )
        return tuple(rows_linear(x, layer.weight, layer.bias, bias_last=bias_last) for layer, x in pairs)

    def _first_views(
        self, embeddings: Sequence[Embedding], mask_maps: Sequence[Tensor | None], *, keeps_order: bool
    ) -> list[_View]:
        # For several prompts Meta repeats the picture, which changes its layout, and PyTorch then adds biases last.
        repeats = len(embeddings) > 1 and all(e is embeddings[0] for e in embeddings)
        bias_last = repeats and keeps_order
        plain: _View | None = None
        views = []
        for embedding, mask_map in zip(embeddings, mask_maps, strict=True):
            if mask_map is not None:
                rows = embedding.image_rows + mask_map.flatten(1).T
                views.append(_View(rows, self._project_first(rows, bias_last=bias_last)))
                continue
            if plain is None or not repeats:
                rows = embedding.image_rows + self._no_mask
                first = (
                    self._project_first(rows, bias_last=True) if bias_last else embedding.first_projections
                )
                plain = _View(rows, first)
            views.append(replace(plain))
        return views

    def _transform(self, tokens: Tensor, views: Sequence[_View], *, folds: bool) -> Tensor:
        """The two-way transformer: tokens (b, n, c) to tokens; the views' rows are updated."""
        positions = tokens
        for i, layer in enumerate(self._layers):
            tokens = layer.attend_to_self(tokens, positions)
            to_image = layer.cross_attn_token_to_image
            q = to_image.q_proj(tokens + positions)
            seen = torch.stack(
                [self._read(i, q_n, view, folds=folds) for q_n, view in zip(q, views, strict=True)]
            )
            tokens = layer.norm2(tokens + to_image.out_proj(seen))
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            from_image = layer.cross_attn_image_to_token
            k, v = from_image.k_proj(tokens + positions), from_image.v_proj(tokens)
            for view, k_n, v_n in zip(views, k, v, strict=True):
                taken = self._write(i, view, k_n, v_n, folds=folds)
                view.rows = _normalise(layer.norm4, taken.add_(view.rows))
                view.placed = view.rows + self._positions
        last = self._decoder.transformer
        q = last.final_attn_token_to_image.q_proj(tokens + positions)
        seen = torch.stack(
            [
                self._read(len(self._layers), q_n, view, folds=folds)
                for q_n, view in zip(q, views, strict=True)
            ]
        )
        return last.norm_final_attn(tokens + last.final_attn_token_to_image.out_proj(seen))

    def _read(self, i: int, q: Tensor, view: _View, *, folds: bool) -> Tensor:
        """What tokens q (n, inner) take from the cells in layer i: (n, inner)."""
        if view.placed is None:
            keys, values, _ = view.first
            return self._to_image[i].attend(q, keys, values)
        attention = self._to_image[i] if i < len(self._layers) else self._last_look
        if folds:
            return attention.read(q, view.placed, view.rows)
        return attention.attend(q, _project(attention.k, view.placed), _project(attention.v, view.rows))

    def _write(self, i: int, view: _View, k: Tensor, v: Tensor, *, folds: bool) -> Tensor:
        """What the cells take from tokens k and v (n, inner) in layer i: (cells, c)."""
        attention = self._from_image[i]
        if folds:
            if view.placed is None:
                return attention.write(attention.scores(k, view.first[2]), v)
            return attention.write(attention.scores_by_folded_q(view.placed, k), v)
        q = view.first[2] if view.placed is None else _project(attention.q, view.placed)
        return _project(attention.out, attention.attend(q, k, v))

    def _weigh_upscaled(self, view: _View, embedding: Embedding, kernels: Tensor, *, out: Tensor) -> None:
        """Upscale the cells and weigh them with kernels (4, c / 8), into out (16 * cells, 4)."""
        x = rows_times(view.rows, *self._up_1).view_as(embedding.feat_s1_rows).add_(embedding.feat_s1_rows)
        x = F.gelu(_normalise(self._up_norm, x)).flatten(0, 1)
        x = rows_times(x, *self._up_2).view_as(embedding.feat_s0_rows).add_(embedding.feat_s0_rows)
        torch.mm(F.gelu(x).flatten(0, 2), kernels.T, out=out)


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
