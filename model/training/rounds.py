"""One training step's prompts: a first click or box, corrections as a person would give them, and the loss.

Segment Anything's way (arXiv 2304.02643, A, "Training algorithm"), shortened as in RITM (arXiv 2102.06583):
corrections in the middle cost a forward pass only; the first and the last round have gradients. Does not know about
data, optimisers or schedules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.mask_decoder import DecoderOutput
from model.network.preprocessing import IMAGE_DEVIATION, IMAGE_MEAN
from model.network.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, PADDING, POSITIVE
from model.network.sam2 import Sam2
from model.training.corrections import correcting_clicks, jittered_boxes, moved_masks
from model.training.losses import mask_loss, true_iou
from model.types import LOGIT_LIMIT

Encode: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""As Sam2.encode."""

FIRST_PROMPTS = {"click": 0.64, "box": 0.12, "click in box": 0.1, "mask": 0.14}
"""What the first round begins with, and how often: one kind a step, for prompts of one forward are equally long.
A box alone is what a network learns last: nothing of the object is where its corners are. A mask a little off, and
its box, is what a track without memory asks (model/video/mask_prompt.py)."""

SILENT_ROUNDS = (0.36, 0.22, 0.16, 0.12, 0.08, 0.06)
"""How often there are 0, 1, 2, ... rounds without gradients between the first and the last."""

FIRST_CENTRAL, LATER_CENTRAL = 0.9, 0.6
"""How often a click is at the middle of the error, not anywhere in it."""

BOX_JITTER, MASK_MOVED = 0.1, 0.1
"""Of the sides of an object's box."""

MASK_LOGITS = (4.0, 16.0)
"""How sure a mask to begin with is, least and most."""

MASK_DROPPED = 0.1
"""How often a prompt comes without its mask: the logits before a correction, or the mask to begin with."""

SINGLE_AFTER_CLICK, BEST_AFTER_MASK, BEST_AFTER_CORRECTIONS = 0.25, 0.5, 0.3
"""Weights of the single mask after a lone click, and of the best of three after a mask and after corrections.
Neither is what is asked for then, as a rule; but clients may, and the single mask falls back on the three where it
is unstable."""

LIKELIEST_AFTER_CLICK = 1.0
"""Weight of the mask with the highest predicted IoU after a lone click: it is what a client gets. Best of three
alone lets all three be guesses of something else."""

FIRST_OBJECT_WEIGHT, CORRECTED_OBJECT_WEIGHT = 0.6, 0.5
"""Of object's pixels in the focal loss. By that loss alone a pixel is called object from a probability of 1 less
this on. IoU is highest where that is I / (1 + I), for a mask that reaches I: 0.4 where it is 0.7, as after a first
click. The usual 0.25 (Lin et al.) has a small model, which is unsure of how far an object goes, draw masks that are
too small."""

IOU_WEIGHT = 4.0
"""Of the error of the predicted IoU, 1 in Segment Anything: it chooses among the three masks of a click, which is
most of what is lost there."""

TARGET_STRIDE = 2
"""Pixels of the picture to one cell of the targets, each way. Logits have a stride of 4."""


@dataclass(slots=True)
class StepLoss:
    """A step's loss and what it is made of, means over its masks."""

    total: Tensor
    parts: dict[str, Tensor]


class _Prompts:
    """The prompts of n masks, equally long: coordinates (n, k, 2) in the model's pixels, labels (n, k)."""

    def __init__(self, truth: Tensor) -> None:
        device, count = truth.device, len(truth)
        self.coords = torch.zeros(count, 0, 2, device=device)
        self.labels = torch.zeros(count, 0, dtype=torch.long, device=device)
        self.clicked = torch.zeros_like(truth)  # n h w, on the grid of the targets

    def add(self, coords: Tensor, labels: Tensor) -> None:
        """Put tokens (n, k, 2) and labels (n, k) behind what there is."""
        self.coords = torch.cat([self.coords, coords], dim=1)
        self.labels = torch.cat([self.labels, labels], dim=1)

    def padded(self) -> tuple[Tensor, Tensor]:
        """Coordinates and labels with the padding point that always comes last."""
        return F.pad(self.coords, (0, 0, 0, 1)), F.pad(self.labels, (0, 1), value=PADDING)


class Rounds:
    """Plays through the prompts of one batch."""

    def __init__(
        self,
        network: Sam2,
        pictures: Tensor,
        masks: Tensor,
        *,
        chance: np.random.Generator,
        encode: Encode | None = None,
    ) -> None:
        """`pictures` (b, s, s, 3) uint8 and `masks` (b, m, s, s) bool, on the network's device.

        `encode` is used in place of the network's own.
        """
        self._network = network
        self._encode = encode or network.encode
        self._dtype = network.no_mem_embed.dtype
        self._chance = chance
        self._generator = torch.Generator(masks.device).manual_seed(int(chance.integers(2**62)))
        self._masks_each = masks.shape[1]
        self._targets = F.avg_pool2d(masks.flatten(0, 1)[:, None].float(), TARGET_STRIDE)  # n 1 h w
        self._truth = self._targets[:, 0] > 0.5
        self._masks = masks.flatten(0, 1)
        self._pictures = pictures
        self._parts: dict[str, list[Tensor]] = {}

    def play(self) -> StepLoss:
        """Encode the pictures, go through all rounds, and sum up the loss."""
        kinds, shares = zip(*FIRST_PROMPTS.items(), strict=True)
        kind = kinds[self._chance.choice(len(kinds), p=shares)]
        prompts, given = self._first_prompts(kind)
        encoded = self._encode(self._normalised())
        maps = [x.repeat_interleave(self._masks_each, dim=0) for x in encoded]
        loss, logits = self._first_round(maps, prompts, given, kind=kind)
        with torch.no_grad():
            detached = [x.detach() for x in maps]
            for _ in range(self._chance.choice(len(SILENT_ROUNDS), p=SILENT_ROUNDS)):
                self._correct(prompts, logits)
                logits = self._decode(detached, prompts, logits).logits[:, :1]
        self._correct(prompts, logits)
        total = loss + self._last_round(maps, prompts, logits)
        return StepLoss(total, {name: torch.stack(x).mean() for name, x in self._parts.items()})

    def _normalised(self) -> Tensor:
        device = self._pictures.device
        mean, deviation = (torch.tensor(x, device=device) * 255 for x in (IMAGE_MEAN, IMAGE_DEVIATION))
        return ((self._pictures - mean) / deviation).permute(0, 3, 1, 2).to(self._dtype)

    def _first_round(
        self, maps: list[Tensor], prompts: _Prompts, given: Tensor | None, *, kind: str
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the logits (n, 1, h, w) that a client would send back."""
        output = self._decode(maps, prompts, given)
        weight = FIRST_OBJECT_WEIGHT
        if kind != "click":
            name, best = ("box", 1.0) if given is None else ("mask", BEST_AFTER_MASK)
            loss = self._score(output, name, object_weight=weight, single=1.0, best=best)
            return loss, output.logits[:, :1].detach()
        loss = self._score(
            output,
            "click",
            object_weight=weight,
            single=SINGLE_AFTER_CLICK,
            best=1.0,
            likeliest=LIKELIEST_AFTER_CLICK,
        )
        served = _likeliest(output)
        return loss, output.logits[torch.arange(len(served), device=served.device), served, None].detach()

    def _last_round(self, maps: list[Tensor], prompts: _Prompts, logits: Tensor) -> Tensor:
        output = self._decode(maps, prompts, logits)
        return self._score(
            output,
            "corrected",
            object_weight=CORRECTED_OBJECT_WEIGHT,
            single=1.0,
            best=BEST_AFTER_CORRECTIONS,
        )

    def _score(
        self,
        output: DecoderOutput,
        name: str,
        *,
        object_weight: float,
        single: float,
        best: float,
        likeliest: float = 0.0,
    ) -> Tensor:
        """Mean loss of one round.

        Token 0 weighs `single`, the best of tokens 1 to 3 `best`, and the one of them with the highest predicted
        IoU `likeliest`; the IoU of all is scored.
        """
        with torch.no_grad():
            small = F.avg_pool2d(self._targets, 2)
            chosen = mask_loss(output.logits[:, 1:], small, object_weight=object_weight).argmin(1) + 1
            reached = true_iou(output.logits, small)
        rows = torch.arange(len(chosen), device=chosen.device)
        weights = {"single": single, "best": best, "likeliest": likeliest}
        tokens = {"single": torch.zeros_like(chosen), "best": chosen, "likeliest": _likeliest(output)}
        loss = output.logits.new_zeros(())
        for role in (role for role, weight in weights.items() if weight):
            logits = output.logits[rows, tokens[role], None]
            fine = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
            cost = mask_loss(fine, self._targets, object_weight=object_weight).mean()
            loss = loss + weights[role] * cost
            reached[rows, tokens[role]] = true_iou(fine, self._targets)[:, 0]
        iou_error = F.mse_loss(output.iou, reached)
        presence = F.softplus(-output.object_score).mean()  # there is always an object
        self._note(f"{name}_iou", reached[rows, tokens["likeliest" if likeliest else "single"]].mean())
        self._note("iou_error", iou_error)
        return loss + IOU_WEIGHT * iou_error + 0.05 * presence

    def _note(self, name: str, value: Tensor) -> None:
        self._parts.setdefault(name, []).append(value.detach())

    def _decode(self, maps: list[Tensor], prompts: _Prompts, logits: Tensor | None) -> DecoderOutput:
        device, count = maps[0].device, len(self._truth)
        side = self._network.config.mask_size
        coords, labels = prompts.padded()
        if logits is None:
            has_mask = torch.zeros(count, dtype=torch.bool, device=device)
            logits = torch.zeros(count, 1, side, side, device=device)
        else:
            has_mask = torch.rand(count, generator=self._generator, device=device) >= MASK_DROPPED
        return self._network.decode(
            *maps,
            coords=coords,
            labels=labels,
            mask_logits=logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT).to(self._dtype),
            has_mask=has_mask,
        )

    def _first_prompts(self, kind: str) -> tuple[_Prompts, Tensor | None]:
        """And the logits (n, 1, h, w) to begin with, for a mask."""
        prompts, given, masks, share = _Prompts(self._truth), None, self._masks, BOX_JITTER
        if kind == "mask":
            masks, share = moved_masks(masks, share=MASK_MOVED, generator=self._generator), 0.0
            least, most = MASK_LOGITS
            sure = torch.rand(len(masks), generator=self._generator, device=masks.device)
            inside = F.avg_pool2d(masks[:, None].float(), 2 * TARGET_STRIDE) * 2 - 1
            given = inside * (least + (most - least) * sure)[:, None, None, None]
        if kind != "click":
            boxes = jittered_boxes(masks, share=share, generator=self._generator)
            labels = torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], device=boxes.device)
            prompts.add(boxes.view(-1, 2, 2), labels.expand(len(boxes), 2))
        if kind in ("click", "click in box"):
            self._click(prompts, torch.zeros_like(self._truth), share_central=FIRST_CENTRAL)
        return prompts, given

    def _correct(self, prompts: _Prompts, logits: Tensor) -> None:
        """Click where logits (n, 1, h, w) are wrong."""
        fine = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
        self._click(prompts, fine[:, 0] > 0, share_central=LATER_CENTRAL)

    def _click(self, prompts: _Prompts, predictions: Tensor, *, share_central: float) -> None:
        cells, is_object = correcting_clicks(
            self._truth,
            predictions,
            excluded=prompts.clicked,
            share_central=share_central,
            generator=self._generator,
        )
        prompts.clicked[torch.arange(len(cells), device=cells.device), cells[:, 1], cells[:, 0]] = True
        pixels = (cells + 0.5) * TARGET_STRIDE - 0.5  # whole numbers are the middles of pixels
        prompts.add(pixels[:, None], torch.where(is_object, POSITIVE, NEGATIVE)[:, None])


def _likeliest(output: DecoderOutput) -> Tensor:
    """(n,): which of tokens 1 to 3 has the highest predicted IoU."""
    return output.iou[:, 1:].argmax(1) + 1
