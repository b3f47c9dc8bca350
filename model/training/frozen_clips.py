"""Clips as the memory's training sees them: features that the picture half made once, kept on disk.

Does not know what they are for. The picture half does not learn, so a clip's features are the same each time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.preprocessing import Preprocessing
from model.network.sam2 import Sam2
from model.training.clips import Clips

POOL = 300
"""Clips that are made; then they come again, with another start. At 320 px and 8 frames each is 7.4 MB on disk."""

CELL = 4
"""Pixels to one of the logits, each way."""


@dataclass(frozen=True, slots=True)
class FrozenClip:
    """What the decoder and the memory need of a clip of n frames."""

    image_embed: Tensor
    """(n, c, h, w), bfloat16, with the "no memory" embedding."""
    feat_s0: Tensor
    """(n, c / 8, 4 h, 4 w), bfloat16."""
    feat_s1: Tensor
    """(n, c / 4, 2 h, 2 w), bfloat16."""
    targets: Tensor
    """(n, 4 h, 4 w), float32: the share of each cell that the object covers."""
    masks: Tensor
    """(n, 16 h, 16 w), bool."""


class FrozenClips:
    """A pool of clips, each made when it is first asked for."""

    def __init__(self, clips: Callable[[], Clips], pictures: Sam2, folder: Path) -> None:
        """`folder` belongs to one model, one size and one seed; the pack is read by `clips` when it is needed."""
        folder.mkdir(parents=True, exist_ok=True)
        self._make, self._pictures, self._folder = clips, pictures, folder

    @cached_property
    def _clips(self) -> Clips:
        return self._make()

    def __getitem__(self, index: int) -> FrozenClip:
        """Clip `index`, any number from 0; after `POOL` of them they come again."""
        index %= POOL
        path = self._folder / f"{index:04}.pt"
        if not path.is_file():
            half_written = path.with_suffix(".part")
            torch.save(self._frozen(index), half_written)
            half_written.replace(path)
        image_embed, feat_s0, feat_s1, masks = torch.load(path, weights_only=True)
        targets = F.avg_pool2d(masks[:, None].float(), CELL)[:, 0]
        return FrozenClip(image_embed, feat_s0, feat_s1, targets, masks)

    @torch.no_grad()
    def _frozen(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        clip = self._clips[index]
        prepared = Preprocessing(side=self._pictures.config.image_size, device=torch.device("cpu"))
        with torch.autocast("cpu", torch.bfloat16):
            maps = [self._pictures.encode(prepared(torch.from_numpy(frame))[None]) for frame in clip.frames]
        first, second, third = (torch.cat(each).bfloat16() for each in zip(*maps, strict=True))
        return first, second, third, torch.from_numpy(clip.masks)
