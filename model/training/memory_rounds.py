"""What a clip costs: the object is shown on the first frame, then sought by memory on all others.

The story of model/video/ with gradients, for one object on one clip. Does not know about optimisers or disks.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.mask_decoder import DecoderOutput
from model.network.prompt_encoder import PADDING, POSITIVE
from model.training.clicks import central_click
from model.training.frozen_clips import FrozenClip
from model.training.losses import mask_loss, true_iou
from model.training.memory_half import LearningModel
from model.video.values import ABSENT, Direction
from model.video.visibility import pointer_reach, visible

MASK_FIRST = 0.7
"""How often the first frame has all of the mask, not a click."""

TRUTH_REMEMBERED = 0.3
"""How often a clip's memories are of the true masks: then what is learnt first, to look there, is learnt sooner."""

OBJECT_WEIGHT, IOU_WEIGHT, PRESENCE_WEIGHT = 0.5, 1.0, 1.0
"""Of object's pixels in the focal loss, of the predicted IoU's error, and of the object score's cross-entropy."""

_SURE = 10.0


@dataclass(slots=True)
class ClipLoss:
    """A clip's loss and what it is made of: means over its frames after the first."""

    total: Tensor
    parts: dict[str, float]


@dataclass(slots=True)
class _Remembered:
    """Memories and pointers by frame."""

    memories: dict[int, Tensor] = field(default_factory=dict)
    pointers: dict[int, Tensor] = field(default_factory=dict)


class MemoryRounds:
    """Plays one clip through. Everything is computed in bfloat16 where that is fast."""

    def __init__(self, model: LearningModel, clip: FrozenClip, *, chance: np.random.Generator) -> None:
        self._model, self._clip, self._chance = model, clip, chance
        self._memory = model.video.memory
        self._remembered = _Remembered()

    def play(self) -> ClipLoss:
        """The loss of a clip whose object is on the first frame."""
        with torch.autocast("cpu", torch.bfloat16):
            return self._play()

    def _play(self) -> ClipLoss:
        self.show()
        remembers_truth = self._chance.random() < TRUTH_REMEMBERED
        losses: list[Tensor] = []
        ious: list[float] = []
        right: list[bool] = []
        for at in range(1, len(self._clip.masks)):
            output, tokens = self.seek(at)
            is_there = bool(self._clip.masks[at].any())
            loss, iou = self._loss(output, at, is_there=is_there)
            losses.append(loss)
            ious += [iou] * is_there
            right.append(bool(output.object_score > 0) == is_there)
            chosen = 1 + int(output.iou[0, 1:].argmax())
            logits = output.logits[0, chosen].detach()
            if remembers_truth:
                logits = self._clip.targets[at] * 2 * _SURE - _SURE
            if not is_there:
                logits = torch.full_like(logits, ABSENT)
            self._remember(at, logits, tokens[:, chosen], present=is_there, prompted=False)
        total = torch.stack(losses).mean()
        parts = {"presence": float(np.mean(right))} | ({"iou": float(np.mean(ious))} if ious else {})
        return ClipLoss(total, {"loss": float(total.detach())} | parts)

    def show(self) -> None:
        """Remember the first frame, from a mask or a click."""
        truth = self._clip.masks[0]
        if self._chance.random() < MASK_FIRST:
            mask = truth[None, None].float()
            small = F.interpolate(
                mask * 2 * _SURE - _SURE,
                scale_factor=0.25,
                mode="bilinear",
                antialias=True,
                align_corners=False,
            )
            _, tokens = self._decode(
                self._cells(0).T.unflatten(1, self._sides)[None], 0, mask=self._memory.mask_downsample(mask)
            )
            self._remember(0, small[0, 0], tokens[:, 0], present=True, prompted=True)
            return
        array = truth.numpy()
        nothing = np.zeros_like(array)
        click = central_click(array, nothing, excluded=nothing)
        if click is None:
            raise ValueError("the object is not on the first frame")
        coords = torch.tensor([[[click.x + 0.5, click.y + 0.5], [0.0, 0.0]]])
        with torch.no_grad():
            output, tokens = self._decode(
                self._clip.image_embed[:1], 0, coords=coords, labels=torch.tensor([[POSITIVE, PADDING]])
            )
        chosen = 1 + int(output.iou[0, 1:].argmax())
        self._remember(0, output.logits[0, chosen], tokens[:, chosen], present=True, prompted=True)

    def seek(self, at: int) -> tuple[DecoderOutput, Tensor]:
        """What the decoder finds on a frame, by what is remembered of those before."""
        num_frames = len(self._clip.masks)
        found = visible(
            at,
            Direction.FORWARD,
            conditioning=[0],
            others=range(1, at),
            video=self._memory.video,
            num_frames=num_frames,
        )
        unit = pointer_reach(self._memory.video, num_frames)
        seen = self._memory.gather(
            [(self._remembered.memories[place], row) for place, row in found.memories],
            [(self._remembered.pointers[place], distance / unit) for place, distance in found.pointers],
        )
        return self._decode(self._memory.condition(self._cells(at), [seen]), at)

    def _decode(
        self,
        features: Tensor,
        at: int,
        *,
        coords: Tensor | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[DecoderOutput, Tensor]:
        """The decoder on one frame; without clicks there are two tokens that are no point, as in model/video/."""
        side = self._model.config.mask_size
        dtype = torch.bfloat16
        return self._model.pictures.decode_with_tokens(
            features.to(dtype),
            self._clip.feat_s0[at : at + 1],
            self._clip.feat_s1[at : at + 1],
            coords=torch.zeros(1, 2, 2) if coords is None else coords,
            labels=torch.full((1, 2), PADDING) if labels is None else labels,
            mask_logits=torch.zeros(1, 1, side, side, dtype=dtype) if mask is None else mask.to(dtype),
            has_mask=torch.tensor([mask is not None]),
        )

    def _remember(self, at: int, logits: Tensor, token: Tensor, *, present: bool, prompted: bool) -> None:
        side = self._model.config.image_size
        grown = F.interpolate(logits[None, None].float(), (side, side), mode="bilinear", align_corners=False)
        masks = (grown > 0).float() if prompted else grown.sigmoid()
        is_there = torch.tensor([present])
        features = self._cells(at).T.unflatten(1, self._sides)[None]
        self._remembered.memories[at] = self._memory.remember(features, masks, is_there)[0]
        self._remembered.pointers[at] = self._memory.point_to(token, is_there)[0]

    def _loss(self, output: DecoderOutput, at: int, *, is_there: bool) -> tuple[Tensor, float]:
        """Loss of a frame, and the IoU of the mask that is taken there."""
        wanted = torch.full_like(output.object_score, float(is_there))
        presence = F.binary_cross_entropy_with_logits(output.object_score, wanted)
        if not is_there:
            return PRESENCE_WEIGHT * presence, 0.0
        target = self._clip.targets[at]
        logits, predicted = output.logits[0, 1:], output.iou[0, 1:]
        costs = mask_loss(logits, target, object_weight=OBJECT_WEIGHT)
        reached = true_iou(logits, target)
        taken = int(predicted.argmax())
        masks = costs.min() + costs[taken]
        error = (predicted - reached).abs().mean()
        return masks + IOU_WEIGHT * error + PRESENCE_WEIGHT * presence, float(reached[taken])

    @property
    def _sides(self) -> tuple[int, int]:
        return self._model.config.embedding_size, self._model.config.embedding_size

    def _cells(self, at: int) -> Tensor:
        """Features (h * w, c) of a frame without the "no memory" embedding."""
        return self._clip.image_embed[at].flatten(1).T.float() - self._model.no_memory
