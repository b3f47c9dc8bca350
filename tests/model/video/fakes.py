"""A network that answers with the number of the frame, and notes what it was asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from model.network.config import VideoConfig
from model.types import Embedding, Prompt
from model.video.network import wants_best_of_three
from model.video.values import Frame, MaskPrompt, Output, Request

VIDEO_2_1 = VideoConfig(says_absence=True, says_distance=True)
SIDE = 4


@dataclass
class FakeNetwork:
    """Its every logit is 1 + frame, 10 for a mask prompt; pointers and memories hold the frame's number."""

    video: VideoConfig = VIDEO_2_1
    mask_size: tuple[int, int] = (SIDE, SIDE)
    calls: list[dict[str, Any]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    fails: bool = False
    logits: Tensor | None = None
    """Instead of the frame's number."""
    remembered: list[Tensor] = field(default_factory=list)
    """The logits that memories were made of."""

    def decode(self, embedding: Embedding, requests: Sequence[Request]) -> list[Output]:
        self.batches.append(len(requests))
        if self.fails:
            raise RuntimeError("the device has failed")
        index = number_of(embedding)
        several = wants_best_of_three(requests)
        for request, multimask in zip(requests, several, strict=True):
            self.calls.append(call(index, request) | {"multimask": multimask})
        answer = output(index, 1.0 + index)
        if self.logits is not None:
            answer = replace(answer, logits=self.logits)
        return [answer for _ in requests]

    def take_mask(self, embedding: Embedding, prompt: MaskPrompt) -> Output:
        index = number_of(embedding)
        self.calls.append({"frame": index, "mask": True})
        return output(index, 10.0)

    def remember(self, embedding: Embedding, outputs: Sequence[Output], *, prompted: bool) -> list[Tensor]:
        index = number_of(embedding)
        self.remembered += [each.logits for each in outputs if each.logits is not None]
        self.calls += [{"encode_memory": index, "binarized": prompted} for _ in outputs]
        return [torch.full((1, 1), index, dtype=torch.bfloat16) for _ in outputs]


def frame(index: int) -> Frame:
    return Frame(index, cast(Embedding, SimpleNamespace(index=index)))


def number_of(embedding: Embedding) -> int:
    return cast(int, cast(Any, embedding).index)


def output(index: int, logit: float) -> Output:
    return Output(torch.full((SIDE, SIDE), logit), torch.full((1,), float(index)), object_score=1.0, iou=0.5)


def click(*labels: int, box: bool = False) -> Prompt:
    """Clicks at places that play no part."""
    return Prompt(
        points=tuple((1.0, 1.0) for _ in labels),
        labels=labels,
        box=(1.0, 1.0, 6.0, 6.0) if box else None,
    )


def call(index: int, request: Request) -> dict[str, Any]:
    labels = [] if request.clicks is None else list(request.clicks.labels)
    if request.clicks is not None and request.clicks.box is not None:
        labels = [2, 3, *labels]
    found: dict[str, Any] = {
        "frame": index,
        "initial": request.seen is None,
        "points": labels,
        "mask_input": None if request.earlier is None else list(request.earlier.shape),
    }
    if request.seen is not None:
        found["memory"] = [[int(memory[0, 0]), row] for memory, row in request.seen.memories]
        found["pointers"] = [int(pointer[0]) for pointer, _ in request.seen.pointers]
        found["pointer_positions"] = [round(distance, 6) for _, distance in request.seen.pointers]
    return found
