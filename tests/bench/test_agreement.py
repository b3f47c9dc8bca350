"""Sides of a benchmark agree, or its run is void. Needs no peers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model.types import Prompt
from tests.bench.agreement import Disagreement, check
from tests.bench.sides import Decoded, coco_rles

SIZE = (100, 100)
OURS, THEIRS = "ours", "theirs"


def mask(*, stability: float, first: int) -> npt.NDArray[np.float32]:
    """Logits whose 50 rows from `first` on are inside, some of their pixels by little."""
    logits = np.full(SIZE, -4, np.float32)
    rows = logits[first : first + 50]
    rows[:] = 4
    unsure = round((1 - stability) * rows.size)
    rows.flat[:unsure] = 0.01
    return logits


class Fake:
    """Has one single mask, and three others that are everybody's."""

    sorts_by_iou = False

    def __init__(self, name: str, single: npt.NDArray[np.float32]) -> None:
        self.name = name
        self._single = single

    def decode(self, picture: int, prompts: Sequence[Prompt]) -> list[Decoded]:
        others = np.stack([mask(stability=0.5, first=first) for first in (0, 20, 40)])
        several, one = np.array([0.5, 0.6, 0.7], np.float32), np.array([0.5], np.float32)
        return [
            Decoded(others, several) if prompt.multimask_output else Decoded(self._single[None], one)
            for prompt in prompts
        ]

    def answer(self, picture: int, prompts: Sequence[Prompt]) -> list[list[str]]:
        height, width = SIZE
        return [
            coco_rles(torch.from_numpy(each.logits), height=height, width=width)
            for each in self.decode(picture, prompts)
        ]

    def crowd(self, prompts: Sequence[Prompt]) -> list[list[str]]:
        raise NotImplementedError


def compare(stability: float, *, half: Sequence[str]) -> float:
    sides = [Fake(THEIRS, mask(stability=0.7, first=40)), Fake(OURS, mask(stability=stability, first=0))]
    prompt = Prompt(points=((5.0, 5.0),), labels=(1,), multimask_output=False)
    (row,) = check(sides, [prompt], case="a click", size=SIZE, half=half)
    assert row.side == OURS
    assert row.values["close choices"] == 1
    return float(row.values["pixels"])


def test_half_precision_may_choose_another_mask_where_the_choice_is_close() -> None:
    assert compare(0.9802, half=[OURS]) == 0


@pytest.mark.parametrize(("stability", "half"), [(0.9, [OURS]), (1.0, [OURS]), (0.9802, [])])
def test_another_mask_is_a_disagreement_elsewhere(stability: float, half: list[str]) -> None:
    with pytest.raises(Disagreement, match="ours and theirs on a click"):
        compare(stability, half=half)
