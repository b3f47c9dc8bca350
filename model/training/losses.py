"""What a predicted mask costs: focal and dice loss, and the error of its own estimate of its IoU.

Does not know about prompts or of the network. Targets are soft: the share of each cell that the object covers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_WEIGHT, DICE_WEIGHT = 20.0, 1.0
"""Segment Anything (arXiv 2304.02643, A, "Losses")."""

_FOCUS = 2


def mask_loss(logits: Tensor, targets: Tensor, *, object_weight: float) -> Tensor:
    """20 focal + dice: logits (..., h, w) and targets, 0..1, of a shape that broadcasts to it, to (...).

    `object_weight` is that of object's pixels in the focal loss; the others weigh 1 less it.
    """
    probabilities = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), reduction="none")
    focal = focal_loss(cross_entropy, probabilities, targets, object_weight=object_weight)
    return FOCAL_WEIGHT * focal + DICE_WEIGHT * dice_loss(probabilities, targets)


def focal_loss(
    cross_entropy: Tensor, probabilities: Tensor, targets: Tensor, *, object_weight: float
) -> Tensor:
    """Mean over the pixels of (..., h, w) of cross-entropy times |target - p|^2 times the pixel's weight.

    Lin et al. (arXiv 1708.02002), where targets are 0 or 1 and |target - p| is 1 - p_t.
    """
    share = 1 - object_weight + targets * (2 * object_weight - 1)
    return (share * (targets - probabilities).abs().pow(_FOCUS) * cross_entropy).mean((-2, -1))


def dice_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 p t + 1) / (p + t + 1), sums over the pixels of (..., h, w): (...)."""
    both = (probabilities * targets).sum((-2, -1))
    either = probabilities.sum((-2, -1)) + targets.sum((-2, -1))
    return 1 - (2 * both + 1) / (either + 1)


@torch.no_grad()
def true_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of logits > 0 with targets > 0.5, (..., h, w) each, to (...); 1 where both are empty."""
    predicted, wanted = logits > 0, targets > 0.5
    both = (predicted & wanted).sum((-2, -1)).float()
    either = (predicted | wanted).sum((-2, -1)).float()
    return torch.where(either > 0, both / either, 1.0)
