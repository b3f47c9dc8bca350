"""The values that enter and leave `model/`: pictures, embeddings, prompts, predictions.

Does not know about files, devices or HTTP.
"""

import math
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""A picture as a person sees it: (height, width, 3), RGB, 0..255."""

Logits: TypeAlias = npt.NDArray[np.float32]
"""Mask logits; above 0 is the object."""

LOGIT_LIMIT = 32.0
"""Logits that come back as a prompt are clamped to +-32, as in Meta's predictor."""

_PAIRS = {2: torch.int32, 4: torch.int64}
"""The type that holds two floats of this many bytes as one number."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The image encoder's output for one picture, ready for any number of decodes.

    One row for each of the h * w cells of the image embedding (64 * 64 at 1024 px), whose pixels in the finer maps
    stay together: "sub-pixel order", row by row within a cell, and again within each of its quarters.

    The tensors, and views of them, are valid only as long as this object lives: on a GPU its memory is reused
    for another picture then.
    """

    image_rows: Tensor
    """(h * w, c): the image embedding, with the "no memory" embedding added."""
    feat_s1_rows: Tensor
    """(h * w, 4, c / 4): stride 8, after conv_s1."""
    feat_s0_rows: Tensor
    """(h * w, 4, 4, c / 8): stride 4, after conv_s0."""
    first_projections: tuple[Tensor, ...]
    """The decoder's first projections of the picture without a mask; see model/cpu/decoder.py."""
    height: int
    """Height of the picture in pixels."""
    width: int
    """Width of the picture in pixels."""

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        tensors = (self.image_rows, self.feat_s1_rows, self.feat_s0_rows, *self.first_projections)
        return sum(t.nbytes for t in tensors)

    def maps(self) -> tuple[Tensor, Tensor, Tensor]:
        """image_embed (c, h, w), feat_s0 (c / 8, 4 h, 4 w) and feat_s1 (c / 4, 2 h, 2 w)."""
        side = math.isqrt(len(self.image_rows))
        return (
            self.image_rows.T.unflatten(1, (side, side)),
            from_subpixels(self.feat_s0_rows, side),
            from_subpixels(self.feat_s1_rows, side),
        )

    def to_host(self) -> "Embedding":
        """Return the same embedding in host memory, bit for bit; without a copy if it is there already."""
        return Embedding(
            image_rows=self.image_rows.cpu(),
            feat_s1_rows=self.feat_s1_rows.cpu(),
            feat_s0_rows=self.feat_s0_rows.cpu(),
            first_projections=tuple(each.cpu() for each in self.first_projections),
            height=self.height,
            width=self.width,
        )

    def to_arrays(self, dtype: npt.DTypeLike) -> dict[str, npt.NDArray[np.floating]]:
        """Return the maps for other decoders: (1, c, h, w) each, with SAM2ImagePredictor's names."""
        names = ("image_embed", "high_res_feats_0", "high_res_feats_1")
        return {
            name: np.ascontiguousarray(t.float().cpu().numpy()[None], dtype)
            for name, t in zip(names, self.maps(), strict=True)
        }


def to_subpixels(feature_map: Tensor, side: int) -> Tensor:
    """A map (c, s * side, s * side), s = 2 or 4, to rows (side * side, 4, c) or (side * side, 4, 4, c)."""
    if feature_map.shape[1] == 2 * side:
        return (
            feature_map.unflatten(2, (side, 2))
            .unflatten(1, (side, 2))
            .permute(1, 3, 2, 4, 0)
            .reshape(-1, 4, len(feature_map))
        )
    x = feature_map.unflatten(2, (side, 2, 2)).unflatten(1, (side, 2, 2))  # c y a b x e f
    return x.permute(1, 4, 2, 5, 3, 6, 0).reshape(side * side, 4, 4, -1)


def from_subpixels(rows: Tensor, side: int) -> Tensor:
    """Undo `to_subpixels`."""
    if rows.dim() == 3:
        x = rows.view(side, side, 2, 2, -1)  # y x a e c
        return x.permute(4, 0, 2, 1, 3).reshape(-1, 2 * side, 2 * side)
    return join_subpixels(rows.flatten(1, 2).permute(2, 0, 1), side)


def join_subpixels(cells: Tensor, side: int) -> Tensor:
    """Maps of floats in sub-pixel order (c, side * side, 16) to rows and columns: (c, 4 * side, 4 * side)."""
    # Neighbours in a row stay neighbours, so two move as one number of twice the width: ten times as fast.
    # `view` wants an even offset and even strides; those of a dimension of length 1 may be anything, so it goes.
    flat = cells.contiguous().flatten()
    flat = flat.clone() if flat.storage_offset() % 2 else flat
    pairs = flat.view(_PAIRS[cells.element_size()]).view(*cells.shape[:2], 8)
    x = pairs.unflatten(2, (2, 2, 2)).unflatten(1, (side, side))  # c y x a e b
    return x.permute(0, 1, 3, 5, 2, 4).reshape(len(cells), 4 * side, 2 * side).view(cells.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt for one object; has at least one of points, box and mask_logits.

    Coordinates are pixels of the picture, x to the right, y down, origin at its top left corner.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    """1 for the object, 0 for background; one for each point."""
    box: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1."""
    mask_logits: Logits | None = field(default=None)
    """(h, w) at the decoder's own resolution, such as an earlier prediction's logits, clamped to LOGIT_LIMIT."""
    multimask_output: bool = True
    """Three masks for an ambiguous prompt, or the single best."""
    hands_out_logits: bool = False
    """Whether the client gets the logits, and may send them back as mask_logits."""
    iou_floor: float | None = None
    """Masks whose predicted IoU is not above this are left out of the prediction. None: there are none such."""

    @property
    def in_refinement(self) -> bool:
        """Whether the prompt belongs to a chain of refinements, each built on the previous prediction."""
        return self.hands_out_logits or self.mask_logits is not None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The answer to one prompt: k masks, 3 with multimask_output and 1 without, less those below its floor."""

    logits: Logits
    """(k, h, w) at low resolution, not clamped."""
    iou: npt.NDArray[np.float32]
    """(k,), the model's estimate of each mask's IoU, 0..1."""
    object_score: float
    """Logit for the presence of the prompted object in the picture."""

    def above(self, floor: float | None) -> "Prediction":
        """The masks whose predicted IoU is above a floor, in memory of their own; None: all, as they are."""
        if floor is None:
            return self
        kept = self.iou > floor
        return Prediction(logits=self.logits[kept], iou=self.iou[kept], object_score=self.object_score)
