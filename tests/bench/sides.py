"""The interface of the sides that the decoder's sections compare, and our own side.

A side gets pictures once and prompts many times, and returns COCO RLE. Does not know about time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from app.codecs.answers import MaskOptions, answer
from model.runner import Sam2Runner
from model.types import Embedding, Pixels, Prompt

Maps: TypeAlias = dict[str, npt.NDArray[np.float32]]
"""image_embed, high_res_feats_0 and high_res_feats_1 of one picture, each (1, c, h, w)."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The masks of one prompt before they are resized to the picture."""

    logits: npt.NDArray[np.float32]
    """(k, h, w)."""
    iou: npt.NDArray[np.float32]
    """(k,)."""


class Side(Protocol):
    """One contender of the sections click, boxes and crowd. Prompts of one call differ only in coordinates."""

    name: str
    sorts_by_iou: bool
    """Whether `answer` puts the best predicted IoU first. Otherwise masks come in token order."""

    def decode(self, picture: int, prompts: Sequence[Prompt]) -> list[Decoded]:
        """Decode prompts on one picture, by its number."""

    def answer(self, picture: int, prompts: Sequence[Prompt]) -> list[list[str]]:
        """Decode prompts on one picture to compressed RLE strings at the picture's own size."""

    def crowd(self, prompts: Sequence[Prompt]) -> list[list[str]]:
        """Decode one prompt for each picture, in order, to RLE."""


class Ours:
    """The runner, and the code that builds the service's answers."""

    sorts_by_iou = True

    def __init__(self, runner: Sam2Runner, embeddings: Sequence[Embedding], *, name: str) -> None:
        self.name = name
        self._runner = runner
        self._embeddings = embeddings

    def decode(self, picture: int, prompts: Sequence[Prompt]) -> list[Decoded]:
        """See Side."""
        predictions = self._runner.decode([(self._embeddings[picture], prompt) for prompt in prompts])
        return [Decoded(p.logits, p.iou) for p in predictions]

    def answer(self, picture: int, prompts: Sequence[Prompt]) -> list[list[str]]:
        """See Side. Does more than the peers: it also computes area, box and stability of each mask."""
        return self._answers([(self._embeddings[picture], prompt) for prompt in prompts])

    def crowd(self, prompts: Sequence[Prompt]) -> list[list[str]]:
        """See Side. One call of the runner."""
        return self._answers(list(zip(self._embeddings, prompts, strict=True)))

    def _answers(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[list[str]]:
        return [
            [
                str(mask.counts)
                for mask in answer(
                    prediction,
                    height=embedding.height,
                    width=embedding.width,
                    options=MaskOptions(),
                    logit_bytes=4,
                )
            ]
            for (embedding, _), prediction in zip(jobs, self._runner.decode(jobs), strict=True)
        ]


def square_points(picture: Pixels, prompts: Sequence[Prompt], *, side: int) -> Tensor:
    """Return the clicks of prompts (n, points, 2) in pixels of the model's square picture."""
    height, width = picture.shape[:2]
    return torch.tensor([p.points for p in prompts]) / torch.tensor([width, height]) * side


def square_boxes(picture: Pixels, prompts: Sequence[Prompt], *, side: int) -> Tensor:
    """Return the boxes of prompts (n, 4) in pixels of the model's square picture."""
    height, width = picture.shape[:2]
    return torch.tensor([p.box for p in prompts]) / torch.tensor([width, height, width, height]) * side


def coco_rles(logits_khw: Tensor, *, height: int, width: int) -> list[str]:
    """Return masks as the peers' users compute them: interpolate, threshold, pycocotools. In token order."""
    full = F.interpolate(
        logits_khw[None].float(), size=(height, width), mode="bilinear", align_corners=False
    )[0]
    masks = (full > 0).cpu().numpy()
    return [
        coco_mask.encode(np.asfortranarray(mask).view(np.uint8))["counts"].decode("ascii") for mask in masks
    ]
