"""The values that cross the border of `model/`: pictures, embeddings, prompts, predictions.

Knows nothing of files, devices or HTTP.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""A picture as a person sees it: (height, width, 3), RGB, 0..255."""

Logits: TypeAlias = npt.NDArray[np.float32]
"""Mask logits; above 0 is the object."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """What the image encoder leaves of one picture, ready for any number of decodes.

    The maps are those of SAM2ImagePredictor: `image_embed` (c, h, w) with the "no memory" embedding added,
    and the two high-resolution maps after conv_s0 and conv_s1. At 1024 px: (256, 64, 64), (32, 256, 256)
    and (64, 128, 128).
    """

    image_embed: Tensor
    feat_s0: Tensor
    feat_s1: Tensor
    height: int
    """Height of the picture in pixels."""
    width: int
    """Width of the picture in pixels."""

    @property
    def nbytes(self) -> int:
        """Bytes that the three maps hold in memory."""
        return sum(t.nbytes for t in (self.image_embed, self.feat_s0, self.feat_s1))

    def to_arrays(self, dtype: npt.DTypeLike) -> dict[str, npt.NDArray[np.floating]]:
        """The maps as a decoder elsewhere wants them: (1, c, h, w) each, under SAM2ImagePredictor's names."""
        maps = {
            "image_embed": self.image_embed,
            "high_res_feats_0": self.feat_s0,
            "high_res_feats_1": self.feat_s1,
        }
        return {name: t.float().cpu().numpy()[None].astype(dtype) for name, t in maps.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What a person says about one object; at least one of points, box and mask_logits.

    Coordinates are pixels of the picture, x to the right, y down, origin at its top left corner.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    """1 for the object, 0 for what is not; as many as points."""
    box: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1."""
    mask_logits: Logits | None = field(default=None)
    """(h, w) at the decoder's own resolution, such as an earlier prediction's logits clamped to +-32."""
    multimask_output: bool = True
    """Three masks for an ambiguous prompt, or the single best."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The decoder's answer to one prompt: k masks, 3 with multimask_output and 1 without."""

    logits: Logits
    """(k, h, w) at low resolution, not clamped."""
    iou: npt.NDArray[np.float32]
    """(k,), the model's estimate of each mask's IoU, 0..1."""
    object_score: float
    """Logit of whether the prompted object is in the picture at all."""
