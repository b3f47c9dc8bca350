"""What a step's loss is made of, and what its rounds hand on."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from model.network.mask_decoder import DecoderOutput
from model.network.sam2 import Sam2
from model.training import rounds
from model.training.losses import mask_loss
from model.training.rounds import Rounds, StepLoss
from tests.model.training.packs import disc

SIDE = 32
CELLS = SIDE // 4
BEST, SERVED = 1, 3
"""Tokens: the one that is right, and a wrong one that is thought best. Token 2 is wrong too."""


@dataclass
class Answering:
    """A network whose decoder answers the same whatever it is asked, and notes it."""

    truth: Tensor
    """(h, w), of the picture."""
    outputs: list[DecoderOutput] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    no_mem_embed: Tensor = field(default_factory=lambda: torch.zeros(1))
    config: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(mask_size=CELLS))

    def encode(self, pictures: Tensor) -> list[Tensor]:
        return [pictures.new_zeros(len(pictures), 1)]

    def decode(self, *maps: Tensor, **asked: Any) -> DecoderOutput:
        right = torch.where(self.truth[::4, ::4], 3.0, -3.0)
        logits = torch.stack([right * share for share in (0.5, 1, -0.2, -1)])[None].requires_grad_()
        iou = torch.tensor([[0.1, 0.2, 0.3, 0.9]], requires_grad=True)
        self.outputs.append(DecoderOutput(logits, iou, torch.zeros(1)))
        self.asked.append(asked)
        return self.outputs[-1]


@pytest.fixture
def network() -> Answering:
    return Answering(torch.from_numpy(disc(SIDE, SIDE, centre=(14, 14), radius=9)))


def play(network: Answering, monkeypatch: pytest.MonkeyPatch, *, first: str) -> StepLoss:
    """A first round of one kind and the last one, on one mask, their gradients computed."""
    monkeypatch.setattr(rounds, "FIRST_PROMPTS", {first: 1.0})
    monkeypatch.setattr(rounds, "SILENT_ROUNDS", (1.0,))
    monkeypatch.setattr(rounds, "MASK_DROPPED", 0.0)
    pictures = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
    masks = network.truth[None, None]
    loss = Rounds(cast(Sam2, network), pictures, masks, chance=np.random.default_rng(5)).play()
    loss.total.backward()  # type: ignore[no-untyped-call]
    return loss


def scored(output: DecoderOutput) -> list[int]:
    """The tokens whose masks the loss looks at."""
    assert output.logits.grad is not None
    return [token for token in range(4) if output.logits.grad[0, token].any()]


def test_after_a_click_the_best_of_three_is_scored_and_the_one_that_a_client_gets(
    network: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = play(network, monkeypatch, first="click").parts
    assert [scored(output) for output in network.outputs] == [[0, BEST, SERVED], [0, BEST]]
    assert parts["click_iou"] < 0.1


def test_after_a_box_the_single_mask_is_what_a_client_gets(
    network: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = play(network, monkeypatch, first="box").parts
    assert scored(network.outputs[0]) == [0, BEST]
    assert parts["box_iou"] > 0.5


def test_a_mask_to_begin_with_comes_with_its_box_and_is_about_the_objects(
    network: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = play(network, monkeypatch, first="mask").parts
    assert parts["mask_iou"] > 0.5
    asked, _ = network.asked
    assert asked["has_mask"].all()
    inside = asked["mask_logits"][0, 0] > 0
    truth = network.truth[2::4, 2::4]
    assert 0.5 < (inside & truth).sum() / (inside | truth).sum() < 1, "a little off"
    least, most = rounds.MASK_LOGITS
    assert least <= asked["mask_logits"].abs().max() <= most
    (left, top), (right, bottom), _ = asked["coords"][0].tolist()
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.abs(np.array([left, top, right, bottom]) - 4 * np.array(found)).max() <= 4


@pytest.mark.parametrize(("first", "token"), [("click", SERVED), ("box", 0), ("click in box", 0)])
def test_corrections_build_on_what_a_client_gets(
    network: Answering, monkeypatch: pytest.MonkeyPatch, first: str, token: int
) -> None:
    play(network, monkeypatch, first=first)
    before, after = network.asked
    assert not before["has_mask"].any()
    assert torch.equal(after["mask_logits"], network.outputs[0].logits[:, token, None])
    assert after["has_mask"].all()
    assert after["coords"].shape[1] == before["coords"].shape[1] + 1


@pytest.mark.parametrize("first", rounds.FIRST_PROMPTS)
def test_object_weighs_more_before_corrections(
    network: Answering, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    found: list[tuple[int, float]] = []

    def noting(*of: Tensor, object_weight: float) -> Tensor:
        found.append((len(network.outputs), object_weight))
        return mask_loss(*of, object_weight=object_weight)

    monkeypatch.setattr(rounds, "mask_loss", noting)
    play(network, monkeypatch, first=first)
    assert set(found) == {(1, rounds.FIRST_OBJECT_WEIGHT), (2, rounds.CORRECTED_OBJECT_WEIGHT)}


def test_all_predicted_iou_is_held_to_what_was_reached(
    network: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(network, monkeypatch, first="click")
    for output in network.outputs:
        assert output.iou.grad is not None
        signs = output.iou.grad[0].sign().tolist()
        assert signs == [-1, -1, 1, 1]  # the right ones are better than predicted, the others worse
