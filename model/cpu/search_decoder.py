"""The mask decoder for many clicks on one picture: the picture's cells are never written, only what clicks add.

A click of n tokens changes the cells x by a sum of few products: x + P^T V, P the probabilities (heads * n, cells)
with which cells attend to tokens, V (heads * n, c) the tokens' values. Normalised, scaled and projected by W it is

    r (x W + P^T (V W)), r one number for each cell,

and x W is the same for all clicks. So a layer computes r, which needs only products of P with small matrices, and
no array of a click is larger than P, a quarter of the cells. Together that is half of the operations of decoder.py.
Sums are in another order; in float32 masks differ from decoder.py's by 1e-6 of their norm.

Half precision is for what is upscaled. All before is in float32, and so is the predicted IoU, which decides which
of two near duplicates is kept. Does not know what a search makes of the masks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.cpu.apart import Between, do_not_pause
from model.cpu.products import plus_times, times
from model.cpu.search_weights import SearchWeights, between, through
from model.cpu.searched_picture import SearchedPicture, SearchedPictures
from model.cpu.shared_out import Jobs, share_out
from model.network.layers import Attention
from model.network.point_tokens import point_tokens
from model.network.sam2 import Sam2
from model.network.transformer import TwoWayAttentionBlock
from model.types import Prediction, Prompt, join_subpixels

T = TypeVar("T")

UPSCALED_CELLS = 1024
"""Cells that are upscaled at once. All 4,096 take as long, and 12 MiB more for each click that is under way."""


@dataclass(slots=True)
class _Click:
    """What one click adds to the cells."""

    added: Tensor
    """(2 * heads * n, cells): P of the first layer times `scale_1`, then P of the second."""
    scale_1: Tensor
    """(cells,): r after the first layer."""
    square: Tensor
    """(cells,): the mean square of what the second layer adds to."""
    scale_2: Tensor
    """(cells,): r after the second."""


class SearchDecoder:
    """Decodes clicks without masks of their own, all on one picture and of equal token counts."""

    def __init__(self, model: Sam2) -> None:
        self._model = model

    @cached_property
    def _weights(self) -> SearchWeights:
        """Made with the first search: they take 20 MiB, 36 in half precision, and many servers are never asked."""
        return SearchWeights(self._model)

    @cached_property
    def _pictures(self) -> SearchedPictures:
        return SearchedPictures(self._weights)

    @staticmethod
    def takes(prompt: Prompt) -> bool:
        """Whether a prompt is one of a search."""
        return (
            prompt.iou_floor is not None
            and prompt.multimask_output
            and prompt.mask_logits is None
            and not prompt.hands_out_logits
        )

    def decode(
        self,
        jobs: Jobs,
        *,
        finish: Callable[[int, Prediction], T],
        between: Between = do_not_pause,
    ) -> list[T]:
        """Return what `finish`, on any thread, makes of each prompt's place and prediction, in order.

        Masks below a prompt's floor are left out of its prediction. `between` is called every few milliseconds.
        """
        picture = self._pictures.of(jobs[0][0])
        return share_out(jobs, partial(self._decode, picture), finish, between=between)

    def _decode(self, picture: SearchedPicture, jobs: Jobs, pause: Between) -> list[Callable[[], Prediction]]:
        """Decide which masks are drawn. Return for each job what draws them."""
        pause()
        points = point_tokens(jobs, image_size=self._model.config.image_size)
        weights = self._weights
        sparse = weights.prompts.embed_points(*map(torch.from_numpy, points))
        positions = torch.cat([weights.output_tokens.expand(len(sparse), -1, -1), sparse], dim=1)
        tokens, v_1, clicks = self._first_layer(positions, picture)
        pause()
        tokens, v_2 = self._second_layer(tokens, positions, v_1, clicks, picture)
        pause()
        values = torch.stack([v_1, v_2], dim=1)
        scored = self._last_read(tokens[:, :2], positions[:, :2], values, clicks, picture)
        iou, object_score = weights.scores(scored)
        floors = torch.tensor([prompt.iou_floor for _, prompt in jobs])
        of_click, mask = (iou[:, 1:] > floors[:, None]).nonzero(as_tuple=True)
        kernels = self._kernels(of_click, mask + 1, tokens, positions, values, clicks, picture)

        def predict(i: int, click: _Click, score: float) -> Prediction:
            is_own = of_click == i
            logits = self._logits(picture, click, values[i], kernels[is_own])
            return Prediction(logits.numpy(), iou[i, mask[is_own] + 1].numpy(), score)

        return [
            partial(predict, i, click, score)
            for i, (click, score) in enumerate(zip(clicks, object_score.tolist(), strict=True))
        ]

    def _first_layer(
        self, positions: Tensor, picture: SearchedPicture
    ) -> tuple[Tensor, Tensor, list[_Click]]:
        """Tokens (b, n, c) to tokens, and the values (b, n, heads, d) that they add to the cells."""
        weights, layer = self._weights, self._weights.layers[0]
        read, write = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        tokens = layer.attend_to_self(positions, positions)
        q = self._by_head(read.q_proj(tokens + positions) * weights.scale).transpose(1, 2)
        k_1, v_1, q_1, by_first, scaled_by_first = map(
            self._by_head_of_cells,
            (picture.k_1, picture.v_1, picture.q_1, picture.by_first, picture.scaled_by_first),
        )
        seen = [torch.bmm(torch.bmm(each, k_1).softmax(2), v_1.transpose(1, 2)) for each in q]
        tokens = _take(layer, tokens, _joined(seen), read)
        k = self._by_head(write.k_proj(tokens + positions) * weights.scale).transpose(1, 2)
        values = self._by_head(write.v_proj(tokens))
        square = between(values, weights.first_square, values)
        scaled_square = between(values, weights.scaled_square, values)
        by_shift = (values * weights.scaled_by_shift).sum(3).transpose(1, 2).flatten(1)
        clicks = []
        for i, v in enumerate(values.transpose(1, 2)):
            scores = torch.bmm(k[i], q_1)
            added = scores.new_empty(2 * scores.shape[0] * scores.shape[1], scores.shape[2])
            p = added[: len(added) // 2]
            torch.softmax(scores, 1, out=p.view_as(scores))
            scale = _sum_of(plus_times(torch.bmm(v, by_first).flatten(0, 1), square[i], p.T), p)
            scale = scale.add_(picture.square).add_(layer.norm4.eps).rsqrt_()
            mean = _sum_of(plus_times(torch.bmm(v, scaled_by_first).flatten(0, 1), scaled_square[i], p.T), p)
            mean = mean.add_(picture.scaled_square).mul_(scale).add_(picture.scaled_by_shift)
            mean = mean.add_(p.T @ by_shift[i]).mul_(scale).add_(weights.shift_square)
            p.mul_(scale)
            clicks.append(_Click(added, scale, mean, scale))
        return tokens, values, clicks

    def _second_layer(
        self,
        tokens: Tensor,
        positions: Tensor,
        v_1: Tensor,
        clicks: Sequence[_Click],
        picture: SearchedPicture,
    ) -> tuple[Tensor, Tensor]:
        """Tokens (b, n, c) to tokens, and the values that they add to the cells. Completes the clicks."""
        weights, layer = self._weights, self._weights.layers[1]
        read, write = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        k_2, v_2, q_2, k_place, q_place, by_second = map(
            self._by_head_of_cells,
            (
                picture.k_2,
                picture.v_2,
                picture.q_2,
                weights.k_2_of_place,
                weights.q_2_of_place,
                picture.by_second,
            ),
        )
        tokens = layer.attend_to_self(tokens, positions)
        q = self._by_head(read.q_proj(tokens + positions) * weights.scale)
        among, mixed, q = between(q, weights.k_2, v_1), through(weights.v_2, v_1), q.transpose(1, 2)
        half = among.shape[1]
        seen = []
        for i, click in enumerate(clicks):
            p = click.added[:half]
            scores = plus_times(torch.bmm(q[i], k_2).flatten(0, 1).mul_(click.scale_1), among[i], p.T)
            shares = scores.view(*q.shape[1:3], -1).baddbmm_(q[i], k_place).softmax(2)
            of_clicks = times(shares.flatten(0, 1), p).view(*q.shape[1:3], -1)
            of_cells = torch.bmm(shares.mul_(click.scale_1), v_2.transpose(1, 2))
            seen.append(of_cells.baddbmm_(of_clicks, mixed[i]))
        tokens = _take(layer, tokens, _joined(seen) + weights.v_2_bias, read)

        k = self._by_head(write.k_proj(tokens + positions) * weights.scale)
        values = self._by_head(write.v_proj(tokens))
        among, k = between(k, weights.q_2, v_1), k.transpose(1, 2)
        square = between(values, weights.second_square, values)
        # What is the same for all cells goes with the first head's probabilities, because they add up to 1.
        square[:, :, : k.shape[2]] += (
            (values * weights.second_by_shift).sum(3).transpose(1, 2).flatten(1)[..., None]
        )
        square = torch.cat([between(values, weights.second_by_first, v_1), square], dim=2)
        for i, (click, v) in enumerate(zip(clicks, values.transpose(1, 2), strict=True)):
            p, p_2 = click.added.split(half)
            scores = plus_times(torch.bmm(k[i], q_2).flatten(0, 1).mul_(click.scale_1), among[i], p.T)
            scores = scores.view(*k.shape[1:3], -1).baddbmm_(k[i], q_place)
            torch.softmax(scores, 1, out=p_2.view_as(scores))
            products = torch.bmm(v, by_second).flatten(0, 1).mul_(click.scale_1)
            products = plus_times(products, square[i], click.added.T)
            click.scale_2 = _sum_of(products, p_2).add_(click.square).add_(layer.norm4.eps).rsqrt_()
        return tokens, values

    def _last_read(
        self,
        tokens: Tensor,
        positions: Tensor,
        values: Tensor,
        clicks: Sequence[_Click],
        picture: SearchedPicture,
    ) -> Tensor:
        """Any n tokens of each click (b, n, c) to those that masks and scores are made of."""
        weights = self._weights
        read = weights.transformer.final_attn_token_to_image
        k_3, v_3, k_place = map(self._by_head_of_cells, (picture.k_3, picture.v_3, weights.k_3_of_place))
        q = self._by_head(read.q_proj(tokens + positions) * weights.scale)
        both = values.unbind(1)
        # What is the same for all cells: see the second layer.
        first = slice(values.shape[2] * values.shape[3], values.shape[2] * (values.shape[3] + 1))
        among = torch.cat([between(q, w, v) for w, v in zip(weights.k_3, both, strict=True)], dim=2)
        among[:, :, first] += (q * weights.k_3_shift).sum(3).transpose(1, 2).flatten(1)[..., None]
        mixed = torch.cat([through(w, v) for w, v in zip(weights.v_3, both, strict=True)], dim=2)
        mixed[:, :, first] += weights.v_3_shift[:, None]
        q = q.transpose(1, 2)
        seen = []
        for i, click in enumerate(clicks):
            scores = torch.bmm(q[i], k_3).flatten(0, 1).mul_(click.scale_1)
            scores = plus_times(scores, among[i], click.added.T).mul_(click.scale_2)
            shares = scores.view(*q.shape[1:3], -1).baddbmm_(q[i], k_place).softmax(2).mul_(click.scale_2)
            of_clicks = times(shares.flatten(0, 1), click.added).view(*q.shape[1:3], -1)
            of_cells = torch.bmm(shares.mul_(click.scale_1), v_3.transpose(1, 2))
            seen.append(of_cells.baddbmm_(of_clicks, mixed[i]))
        out = read.out_proj(_joined(seen) + weights.v_3_bias)
        return weights.transformer.norm_final_attn(tokens + out)

    def _kernels(
        self,
        of_click: Tensor,
        mask: Tensor,
        tokens: Tensor,
        positions: Tensor,
        values: Tensor,
        clicks: Sequence[_Click],
        picture: SearchedPicture,
    ) -> Tensor:
        """The kernels (m, c / 8) of m masks: the places of their clicks, and which of the four each is."""
        weights = self._weights
        if not len(mask):
            return tokens.new_empty(0, tokens.shape[2] // 8)
        own = of_click, mask + 2
        own_clicks = [clicks[i] for i in of_click.tolist()]
        read = self._last_read(
            tokens[own][:, None], positions[own][:, None], values[of_click], own_clicks, picture
        )
        perceptrons = zip(mask.tolist(), read, strict=True)
        return torch.cat([weights.kernels[i](each) for i, each in perceptrons])

    def _logits(self, picture: SearchedPicture, click: _Click, values: Tensor, kernels: Tensor) -> Tensor:
        """Masks (k, 4 h, 4 w) of kernels (k, c / 8), for values (2, n, heads, d) of the two layers."""
        side = self._model.config.embedding_size
        if not len(kernels):
            return torch.empty(0, 4 * side, 4 * side)
        weights = self._weights
        values = (values.transpose(1, 2) @ weights.up_of_values).flatten(0, 2)
        half, n = len(values) // 2, len(values) // (2 * weights.num_heads)
        values[half : half + n] += weights.up_shift
        values, kernels = values.to(picture.up.dtype), kernels.to(picture.up.dtype)
        scale = click.scale_1 * click.scale_2
        logits = kernels.new_empty(len(kernels), 16 * len(scale))
        for start in range(0, len(scale), UPSCALED_CELLS):
            cells = slice(start, start + UPSCALED_CELLS)
            added = (click.added[:, cells] * click.scale_2[cells]).to(values.dtype)
            features = self._upscaled(picture, cells, scale[cells], added, values)
            torch.mm(kernels, features.T, out=logits[:, 16 * start : 16 * start + len(features)])
        return join_subpixels(logits.float().unflatten(1, (-1, 16)), side)

    def _upscaled(
        self, picture: SearchedPicture, cells: slice, scale: Tensor, added: Tensor, values: Tensor
    ) -> Tensor:
        """Some cells, `scale` times what they are without a click, plus what it adds: (cells * 16, c / 8)."""
        weights = self._weights
        gelu_ = torch.ops.aten.gelu_  # in place: torch.nn.functional has none
        x = torch.addcmul(picture.feat_s1[cells], scale.to(values.dtype)[:, None], picture.up[cells])
        x = plus_times(x, added.T, values.T).view(4 * len(x), -1)
        norm = weights.up_norm
        x = gelu_(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = times(x, weights.up_2).add_(picture.feat_s0[4 * cells.start : 4 * cells.start + len(x)])
        return gelu_(x).view(4 * len(x), -1)

    def _by_head(self, x: Tensor) -> Tensor:
        """(b, n, inner) to (b, n, heads, d)."""
        return x.unflatten(2, (self._weights.num_heads, -1))

    def _by_head_of_cells(self, x: Tensor) -> Tensor:
        """(inner, cells) to (heads, d, cells)."""
        return x.unflatten(0, (self._weights.num_heads, -1))


def _sum_of(x: Tensor, y: Tensor) -> Tensor:
    """The sum over rows of products, (rows, cells) to (cells,). Overwrites x."""
    return x.mul_(y).sum(0)


def _joined(seen: Sequence[Tensor]) -> Tensor:
    """What each of b prompts has seen (heads, n, d) to (b, n, inner)."""
    return torch.stack(list(seen)).transpose(1, 2).flatten(2)


def _take(layer: TwoWayAttentionBlock, tokens: Tensor, seen: Tensor, read: Attention) -> Tensor:
    """The rest of a layer for the tokens (b, n, c), after they have seen (b, n, inner)."""
    tokens = layer.norm2(tokens + read.out_proj(seen))
    return layer.norm3(tokens + layer.mlp(tokens))
