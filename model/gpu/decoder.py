"""The mask decoder as it runs on a GPU: the same function as mask_decoder.py, for many pictures at once.

What a GPU waits for is memory and the start of kernels, so there are few of them, each over the whole batch, and
none whose shape or existence depends on a value: all of it can be captured.

- Projections of the picture's cells by one layer are one product. Positions are added to the cells before two of
  them; their share of the product is constant, and computed once.
- A transposed convolution of 2x2 with stride 2 is one product per cell, when the four new pixels of a cell stay
  together ("sub-pixel order"). Only the masks that are asked for are put into rows and columns.
- The six perceptrons behind the tokens go together.

model/cpu/decoder.py has the same, and more, in the order that suits caches.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cpu.decoder import Heads, subpixel_product
from model.gpu.arena import Arena
from model.network.layers import Attention, LayerNorm2d
from model.network.mask_decoder import DecoderOutput, stability
from model.network.sam2 import Sam2
from model.network.transformer import TwoWayAttentionBlock


class GpuDecoder:
    """Decodes prompts of equal token counts on embeddings that lie in an arena. Keeps no state."""

    def __init__(self, model: Sam2, arena: Arena) -> None:
        self._arena = arena
        self._config = model.config
        self._prompts, decoder = model.sam_prompt_encoder, model.sam_mask_decoder
        self._no_mask = self._prompts.embed_no_mask().flatten()
        self._output_tokens = decoder.output_tokens()
        self._transformer = decoder.transformer
        self._layers: list[TwoWayAttentionBlock] = list(decoder.transformer.layers)  # type: ignore[arg-type]
        positions = self._prompts.image_positions().flatten(1).T
        self._cells = [_CellProjection.for_layer(layer, positions) for layer in self._layers]
        self._last_cells = _CellProjection.for_last_look(
            decoder.transformer.final_attn_token_to_image, positions
        )
        up_1, up_norm, _, up_2, _ = decoder.output_upscaling
        self._up_1, self._up_2 = subpixel_product(up_1), subpixel_product(up_2)
        self._up_norm: LayerNorm2d = up_norm  # type: ignore[assignment]  # nn.Sequential is not generic
        self._heads = Heads(decoder)
        self._multimask_tokens = torch.arange(
            1, model.config.decoder.num_multimask_outputs + 1, device=arena.image_rows.device
        )

    def network(
        self,
        slots: Tensor,
        coords: Tensor,
        labels: Tensor,
        mask_logits: Tensor | None,
        has_mask: Tensor,
        is_present: Tensor | None = None,
    ) -> DecoderOutput:
        """Decode b prompts of n points each on the embeddings in `slots` (b,).

        `coords` (b, n, 2) in pixels of the square picture, `labels` (b, n), n may be 0. `mask_logits`
        (b, 1, 4 h, 4 w) counts where `has_mask` (b,) is true; None, which is cheaper, where no prompt has a mask.
        Where `is_present` (b, n) is false, nothing attends to the point; None, which is cheaper, where all are
        present. The logits stay in the model's precision and in sub-pixel order, (b, 4, h * w, 16).
        """
        rows = self._arena.image_rows[slots]  # b cells c
        if mask_logits is None:
            rows = rows + self._no_mask
        else:
            maps = self._prompts.embed_masks(mask_logits.to(rows.dtype)).flatten(2).transpose(1, 2)
            rows = rows + torch.where(has_mask[:, None, None], maps, self._no_mask)
        points = self._prompts.embed_points(coords, labels)
        tokens = torch.cat([self._output_tokens.expand(len(points), -1, -1), points], dim=1)
        tokens, rows = self._transform(tokens, rows, self._seen_by_all(is_present))
        kernels, scores = self._heads(tokens)
        logits = kernels @ self._upscale(rows, slots).flatten(1, 2).transpose(1, 2)
        return DecoderOutput(logits.unflatten(2, (-1, 16)), *scores)

    def choose(self, output: DecoderOutput, multimask: Tensor, *, planes: Tensor, scores: Tensor) -> None:
        """Write the masks that each prompt is answered with, in float32, as choose_masks in mask_decoder.py has it.

        Where `multimask` (b,) is true, tokens 1 to 3 go to `planes` (3, b, 4 h, 4 w); elsewhere the single mask
        goes to the first plane, and to the others as well. `scores` (b, 4) gets three IoUs and the object score.
        """
        decoder = self._config.decoder
        is_stable = (
            stability(output.logits[:, 0].float(), decoder.stability_delta) >= decoder.stability_threshold
        )
        single = (output.iou[:, 1:].argmax(dim=1) + 1).masked_fill(is_stable, 0)
        tokens = torch.where(multimask[:, None], self._multimask_tokens, single[:, None])  # b k
        scores[:, :-1] = output.iou.gather(1, tokens)
        scores[:, -1] = output.object_score
        prompts = torch.arange(len(tokens), device=tokens.device)[:, None]
        side = self._config.embedding_size
        cells = output.logits[prompts, tokens].unflatten(3, (2, 2, 2, 2)).unflatten(2, (side, side))
        # b k y x a e c f: row y, and within the cell a, and within its quarter c; likewise x, e, f.
        into = planes.unflatten(3, (side, 2, 2)).unflatten(2, (side, 2, 2))  # k b y a c x e f
        into.copy_(cells.permute(1, 0, 2, 4, 6, 3, 5, 7))

    def _seen_by_all(self, is_present: Tensor | None) -> Tensor | None:
        """Which tokens may be attended to (b, 1, 1, output tokens + n), by every head and every query."""
        if is_present is None:
            return None
        return F.pad(is_present, (self._output_tokens.shape[-2], 0), value=True)[:, None, None]

    def _transform(self, tokens: Tensor, rows: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The two-way transformer: tokens (b, n, c) and cells (b, h * w, c), both updated."""
        positions = tokens
        for layer, cells in zip(self._layers, self._cells, strict=True):
            tokens = _attend_to_self(layer, tokens, positions, mask)
            keys, values, queries = cells(rows)
            to_image = layer.cross_attn_token_to_image
            seen = _attend(to_image, to_image.q_proj(tokens + positions), keys, values)
            tokens = layer.norm2(tokens + seen)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            from_image = layer.cross_attn_image_to_token
            taken = _attend(
                from_image, queries, from_image.k_proj(tokens + positions), from_image.v_proj(tokens), mask
            )
            rows = layer.norm4(rows + taken)
        last_look = self._transformer.final_attn_token_to_image
        keys, values = self._last_cells(rows)
        seen = _attend(last_look, last_look.q_proj(tokens + positions), keys, values)
        return self._transformer.norm_final_attn(tokens + seen), rows

    def _upscale(self, rows: Tensor, slots: Tensor) -> Tensor:
        """Cells (b, h * w, c) to their sixteen pixels (b, h * w, 16, c / 8)."""
        x = F.linear(rows, *self._up_1).unflatten(2, (4, -1)) + self._arena.feat_s1_rows[slots]
        norm = self._up_norm
        x = F.gelu(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = F.linear(x, *self._up_2).unflatten(3, (4, -1)) + self._arena.feat_s0_rows[slots]
        return F.gelu(x).flatten(2, 3)


class _CellProjection:
    """Several projections of a picture's cells in one product, positions added before some of them."""

    def __init__(self, layers: Sequence[tuple[nn.Linear, bool]], positions: Tensor) -> None:
        """`layers` with whether they see the positions (h * w, c) as well."""
        self._weight = torch.cat([layer.weight for layer, _ in layers])
        shares = [
            F.linear(positions.float() * sees_positions, layer.weight.float(), layer.bias.float())
            for layer, sees_positions in layers
        ]
        self._share = torch.cat(shares, dim=1).to(positions.dtype)
        self._count = len(layers)

    @classmethod
    def for_layer(cls, layer: TwoWayAttentionBlock, positions: Tensor) -> "_CellProjection":
        """Keys and values for the tokens, and the queries of the cells themselves."""
        to_image, from_image = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        return cls([(to_image.k_proj, True), (to_image.v_proj, False), (from_image.q_proj, True)], positions)

    @classmethod
    def for_last_look(cls, attention: Attention, positions: Tensor) -> "_CellProjection":
        """Keys and values for the tokens."""
        return cls([(attention.k_proj, True), (attention.v_proj, False)], positions)

    def __call__(self, rows: Tensor) -> tuple[Tensor, ...]:
        """(b, h * w, c) to as many of (b, h * w, inner)."""
        return F.linear(rows, self._weight).add_(self._share).chunk(self._count, dim=2)


def _attend_to_self(
    layer: TwoWayAttentionBlock, tokens: Tensor, positions: Tensor, mask: Tensor | None
) -> Tensor:
    """As layer.attend_to_self, but no token attends to one that the mask leaves out."""
    attention = layer.self_attn
    placed = tokens if layer.is_first else tokens + positions
    seen = _attend(
        attention, attention.q_proj(placed), attention.k_proj(placed), attention.v_proj(tokens), mask
    )
    return layer.norm1(seen if layer.is_first else tokens + seen)


def _attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of what is projected already, q (b, n, inner) to k and v (b, m, inner): (b, n, c)."""
    q, k, v = (x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attention.out_proj(x.transpose(1, 2).flatten(2))
