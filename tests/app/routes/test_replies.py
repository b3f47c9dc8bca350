"""Replies: small ones are written at once, large ones in a worker, and all of them as the schema says."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from app.codecs.answers import Decoded, MaskAnswer
from app.routes import schemas
from app.routes.replies import written
from app.service.service import SegmentationService
from model.masks.runs import Runs

MASK = MaskAnswer(
    iou=0.5,
    stability=0.25,
    area=3,
    bbox=(1, 2, 3, 4),
    size=(9, 8),
    runs=Runs(9, 8, np.array([72])),
    bounds=(1, 2, 3, 4),
    counts="abc",
)


class Workers:
    """Runs jobs at once, and counts them."""

    def __init__(self) -> None:
        self.jobs = 0

    async def work(self, job: Callable[[], str], *, share: str) -> str:
        assert share == "anna"
        self.jobs += 1
        return job()


async def write(masks: list[MaskAnswer], *, prompts: int = 1) -> tuple[dict[str, Any], int]:
    """The reply, and how many jobs the workers got."""
    workers = Workers()
    decoded = Decoded(height=9, width=8, predictions=[masks] * prompts)
    service = cast(SegmentationService, workers)
    text = await written(service, decoded, image_id="truck", model="m", share="anna")
    reply: dict[str, Any] = json.loads(text)
    schemas.DecodeReply.model_validate(reply)
    return reply, workers.jobs


RING = [[0.5, 1.0], [2.0, 3.0], [4.0, 0.25]]


@pytest.mark.parametrize(
    "large",
    [
        {"counts": [1, 2] * 20_000},
        {"counts": "a" * 200_000},
        {"png": "a" * 200_000},
        {"logits": "a" * 200_000},
        {"polygons": [RING * 5_000]},
        {"polygons": [RING], "holes": [RING] * 5_000},
    ],
    ids=lambda large: ", ".join(large),
)
async def test_large_masks_are_written_in_a_worker(large: dict[str, Any]) -> None:
    mask = replace(MASK, **large)
    reply, jobs = await write([mask, MASK])
    assert jobs == 1
    (first, second) = reply["predictions"][0]["masks"]
    for name, value in large.items():
        assert (first["rle"]["counts"] if name == "counts" else first[name]) == value
    assert second["rle"] == {"size": [9, 8], "counts": "abc"}


async def test_small_masks_are_written_at_once_and_many_in_a_worker() -> None:
    small = [MASK, replace(MASK, counts=None, polygons=[RING], holes=[])]
    reply, jobs = await write(small, prompts=2)
    assert jobs == 0
    assert reply == {
        "image_id": "truck",
        "width": 8,
        "height": 9,
        "model": "m",
        "predictions": [
            {
                "masks": [
                    {
                        "rle": {"size": [9, 8], "counts": "abc"},
                        "iou": 0.5,
                        "stability": 0.25,
                        "area": 3,
                        "bounds": [1, 2, 3, 4],
                        "bbox": [1, 2, 3, 4],
                    },
                    {
                        "polygons": [RING],
                        "holes": [],
                        "iou": 0.5,
                        "stability": 0.25,
                        "area": 3,
                        "bounds": [1, 2, 3, 4],
                        "bbox": [1, 2, 3, 4],
                    },
                ]
            }
        ]
        * 2,
    }
    assert (await write(small, prompts=3))[1] == 1
