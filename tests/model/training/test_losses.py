"""Losses, against values worked out by hand."""

from math import log

import pytest
import torch

from model.training.losses import dice_loss, focal_loss, mask_loss, true_iou


def logit(p: float) -> float:
    return log(p / (1 - p))


def test_dice() -> None:
    p = torch.tensor([[0.5, 1.0], [0.0, 0.0]])
    t = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert dice_loss(p, t).item() == pytest.approx(1 - (2 * 1.5 + 1) / (1.5 + 2 + 1))


def test_dice_of_two_empty_masks_is_nothing() -> None:
    assert dice_loss(torch.zeros(2, 2), torch.zeros(2, 2)).item() == 0


def test_focal() -> None:
    """0.6 (1 - 0.8)^2 (-log 0.8) on the object, 0.4 0.4^2 (-log 0.6) beside it; their mean."""
    p = torch.tensor([[0.8, 0.4]])
    cross_entropy = torch.tensor([[-log(0.8), -log(0.6)]])
    expected = (0.6 * 0.2**2 * -log(0.8) + 0.4 * 0.4**2 * -log(0.6)) / 2
    assert focal_loss(
        cross_entropy, p, torch.tensor([[1.0, 0.0]]), object_weight=0.6
    ).item() == pytest.approx(expected)


def test_a_half_covered_cell_wants_a_half() -> None:
    logits = torch.linspace(-4, 4, 81).view(-1, 1, 1)
    losses = mask_loss(logits, torch.tensor([[0.5]]), object_weight=0.5)
    assert logits[losses.argmin()].item() == pytest.approx(0, abs=0.11)


def test_mask_loss_weighs_the_two() -> None:
    logits = torch.tensor([[[logit(0.8), logit(0.4)]]])
    focal = (0.6 * 0.2**2 * -log(0.8) + 0.4 * 0.4**2 * -log(0.6)) / 2
    dice = 1 - (2 * 0.8 + 1) / (1.2 + 1 + 1)
    loss = mask_loss(logits, torch.tensor([[1.0, 0.0]]), object_weight=0.6)
    assert loss.item() == pytest.approx(20 * focal + dice)


@pytest.mark.parametrize("object_weight", [0.25, 0.5, 0.6])
def test_a_pixel_is_called_object_from_a_probability_of_1_less_the_objects_weight(
    object_weight: float,
) -> None:
    logits = torch.linspace(-2, 2, 401).view(-1, 1, 1)
    as_object, as_background = (
        focal_loss(
            torch.nn.functional.softplus(-logits if target else logits),
            logits.sigmoid(),
            torch.full((1, 1), target),
            object_weight=object_weight,
        )
        for target in (1.0, 0.0)
    )
    probability = 1 - object_weight
    expected = probability * as_object + (1 - probability) * as_background
    assert logits[expected.argmin()].item() == pytest.approx(0, abs=0.02)


def test_every_mask_is_scored_for_itself() -> None:
    logits = torch.randn(2, 3, 4, 4)
    targets = (torch.rand(2, 1, 4, 4) > 0.5).float()
    losses = mask_loss(logits, targets, object_weight=0.6)
    assert losses.shape == (2, 3)
    alone = mask_loss(logits[1, 2], targets[1, 0], object_weight=0.6)
    assert losses[1, 2].item() == pytest.approx(alone.item(), rel=1e-5)


def test_large_logits_cost_no_more_than_numbers_hold() -> None:
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = mask_loss(logits, torch.tensor([[0.0, 1.0]]), object_weight=0.6)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_iou() -> None:
    logits = torch.tensor([[3.0, 2.0, -1.0, -5.0], [-1.0] * 4])
    targets = torch.tensor([[1.0, 0.4, 0.6, 0.0], [0.5, 0.0, 0.0, 0.0]])
    assert true_iou(logits[:, None], targets[:, None]).tolist() == pytest.approx([1 / 3, 1.0])
