"""Replies: small ones are written at once, large ones in a worker, and all of them as the schema says."""

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast, get_args

import numpy as np
import pytest

from app.codecs.answers import Decoded, MaskAnswer, MaskFormat, MaskOptions, answer
from app.routes import schemas
from app.routes.replies import written
from app.service.service import SegmentationService
from model.masks.outlines import Outline
from model.masks.runs import Runs
from model.types import Prediction

MASK = MaskAnswer(
    iou=0.5,
    stability=0.25,
    area=3,
    bbox=(1, 2, 3, 4),
    size=(9, 8),
    runs=Runs(9, 8, np.array([72])),
    bounds=(1, 2, 3, 4),
    compressed="abc",
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
    decoded = Decoded(height=9, width=8, predictions=[masks] * prompts, model="m")
    service = cast(SegmentationService, workers)
    text = await written(service, decoded, image_id="truck", share="anna")
    reply: dict[str, Any] = json.loads(text)
    schemas.DecodeReply.model_validate(reply)
    return reply, workers.jobs


RING = [[0.5, 1.0], [2.0, 3.0], [4.0, 0.25]]


def drawn(outer: list[list[list[float]]], holes: list[list[list[float]]]) -> Outline:
    return Outline(*([np.array(ring) for ring in rings] for rings in (outer, holes)))


@pytest.mark.parametrize(
    "large",
    [
        {"counts": [1, 2] * 20_000},
        {"counts": "a" * 200_000},
        {"png": "a" * 200_000},
        {"logits": "a" * 200_000},
        {"polygons": [RING * 5_000], "holes": []},
        {"polygons": [RING], "holes": [RING] * 5_000},
    ],
    ids=lambda large: ", ".join(large),
)
async def test_large_masks_are_written_in_a_worker(large: dict[str, Any]) -> None:
    match large:
        case {"counts": [*lengths]}:
            mask = replace(MASK, mask_format="rle_uncompressed", runs=Runs(9, 8, np.array(lengths)))
        case {"counts": compressed}:
            mask = replace(MASK, compressed=compressed)
        case {"polygons": outer, "holes": holes}:
            mask = replace(MASK, outline=drawn(outer, holes))
        case _:
            mask = replace(MASK, **large)
    reply, jobs = await write([mask, MASK])
    assert jobs == 1
    (first, second) = reply["predictions"][0]["masks"]
    for name, value in large.items():
        assert (first["rle"]["counts"] if name == "counts" else first[name]) == value
    assert second["rle"] == {"size": [9, 8], "counts": "abc"}


async def test_small_masks_are_written_at_once_and_many_in_a_worker() -> None:
    small = [MASK, replace(MASK, compressed=None, outline=drawn([RING], []))]
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


def test_a_mask_that_waits_to_be_written_is_few_objects() -> None:
    """Lists of a million points would be freed on the event loop, and looked at whenever garbage is collected."""
    logits = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    prediction = Prediction(logits, np.array([0.5], np.float32), 1.0)
    for mask_format in get_args(MaskFormat):
        options = MaskOptions(mask_format=mask_format)
        (mask,) = answer(prediction, height=640, width=640, options=options, logit_bytes=2)
        seen: dict[int, object] = {}
        waiting: list[object] = [mask]
        while waiting:
            each = waiting.pop()
            if id(each) not in seen and not isinstance(each, type):
                seen[id(each)] = each
                waiting += gc.get_referents(each)
        rings = len(mask.polygons or ()) + len(mask.holes or ())
        assert len(seen) < 100 + 4 * rings
        assert mask_format != "polygons" or mask.numbers > 10 * len(seen)
