"""Masks of several objects on one frame that do not overlap: each pixel belongs to the highest logit, if to any.

As Meta's predictor shows them with non_overlap_masks. What is remembered of the objects does not change.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from model.masks.runs import Runs
from model.types import Logits


def apart(logits_hw: Sequence[Logits], *, height: int, width: int) -> list[Runs]:
    """Logits (h, w) of each object to its mask at the picture's size. Among equals, the first has the pixel."""
    highest = torch.zeros(height, width)  # a pixel below 0 belongs to nobody
    owner = torch.full((height, width), -1)
    for i, each in enumerate(logits_hw):
        grown = F.interpolate(torch.from_numpy(each)[None, None], size=(height, width), mode="bilinear")[0, 0]
        is_higher = grown > highest
        highest[is_higher], owner[is_higher] = grown[is_higher], i
    owners = owner.numpy()
    return [Runs.from_array(owners == i) for i in range(len(logits_hw))]
