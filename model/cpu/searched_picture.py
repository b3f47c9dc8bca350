"""What the mask decoder makes of a picture alone, for clicks that search it: 11 projections and what is upscaled.

That takes as long as two clicks and 40 MiB, so those of the last pictures are kept. Does not know prompts.
"""

import weakref
from functools import partial

import torch
from torch import Tensor

from model.cpu.search_weights import SearchWeights
from model.types import Embedding

MOST_PICTURES = 3
"""As many as are searched at a time (app/service/search.py): the others wait."""


class SearchedPicture:
    """A picture without a mask, projected: (inner, cells) each unless it is said otherwise."""

    def __init__(self, weights: SearchWeights, embedding: Embedding) -> None:
        one = weights.layers[0]
        rows = embedding.image_rows.float() + weights.no_mask
        placed = rows + weights.positions
        read, write = one.cross_attn_token_to_image, one.cross_attn_image_to_token
        self.k_1, self.v_1, self.q_1 = (
            torch.addmm(layer.bias[:, None], layer.weight, x.T)
            for layer, x in ((read.k_proj, placed), (read.v_proj, rows), (write.q_proj, placed))
        )
        # A cell's probabilities add up to 1, so the bias of what is written to it may be added before.
        rows = rows + write.out_proj.bias
        rows = rows - rows.mean(1, keepdim=True)
        scaled = rows @ weights.scaled.T
        self.square, self.scaled_square = rows.square().mean(1), scaled.square().mean(1)
        """(cells,) each."""
        self.scaled_by_shift = scaled @ weights.shift * (2 / weights.width)
        self.by_first, self.k_2, self.v_2, self.q_2 = (weights.of_first_cells @ rows.T).chunk(4)
        self.scaled_by_first, self.by_second, self.k_3, self.v_3 = (weights.of_scaled_cells @ scaled.T).chunk(
            4
        )
        dtype = embedding.feat_s1_rows.dtype
        self.up = (scaled @ weights.up.T).to(dtype)
        """(cells, c)."""
        self.feat_s1 = (embedding.feat_s1_rows.flatten(1) + weights.up_bias).to(dtype)
        """(cells, c), with all that is added to `up` and is the same for all clicks."""
        # With a bias, oneDNN's product takes half as long again.
        self.feat_s0 = embedding.feat_s0_rows.flatten(2).flatten(0, 1) + weights.up_2_bias
        """(4 * cells, c / 2)."""


class SearchedPictures:
    """The pictures that were searched last. What is kept of one goes with its embedding at the latest."""

    def __init__(self, weights: SearchWeights) -> None:
        self._weights = weights
        # By the id of the embedding's rows, the last one used last. An embedding may be dropped on any thread, at
        # any moment of a search: each change is one operation of a dict.
        self._kept: dict[int, tuple[weakref.ref[Tensor], SearchedPicture]] = {}

    def of(self, embedding: Embedding) -> SearchedPicture:
        """Return what is kept of a picture, or make it."""
        rows = embedding.image_rows
        place = id(rows)  # no other's before `_forget` has returned
        kept = self._kept.pop(place, None)
        if kept is None:
            kept = weakref.ref(rows, partial(self._forget, place)), SearchedPicture(self._weights, embedding)
        self._kept[place] = kept
        for oldest in list(self._kept)[:-MOST_PICTURES]:
            self._kept.pop(oldest, None)
        return kept[1]

    def _forget(self, place: int, _: weakref.ref[Tensor]) -> None:
        self._kept.pop(place, None)
