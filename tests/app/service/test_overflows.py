"""A network that overflows in half precision answers NaN. That is said: it is no picture without objects."""

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest

from model.types import Embedding, Prediction, Prompt
from tests.fakes import FakeSegmenter, error, picture, serving, until

CLICK = {"point_coords": [[30, 20]], "point_labels": [1]}
DARK = 10
"""Shade of the pictures that make it overflow."""


class Overflowing(FakeSegmenter):
    """Answers NaN for dark pictures."""

    def _predict(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        prediction = super()._predict(embedding, prompt)
        if embedding.image_rows.max() > DARK:
            return prediction
        nothing = np.full_like(prediction.logits, np.nan)
        return Prediction(nothing, np.full_like(prediction.iou, np.nan), np.nan).above(prompt.iou_floor)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/decode", CLICK),
        ("/decode", {"box": [1, 2, 30, 20], "mask_format": "polygons"}),
        ("/everything", {"points_per_side": 2}),
        ("/everything", {"points_per_side": 2, "use_m2m": True}),
    ],
)
async def test_no_empty_masks_are_answered(path: str, body: dict[str, Any]) -> None:
    async with serving(segmenter=Overflowing()) as served:
        await served.embed(picture(shade=DARK), "night")
        await served.embed(picture(shade=DARK + 1), "day")
        failed = await served.post(path, {"image_id": "night", **body})
        assert error(failed) == (500, "inference_failed")
        assert "SAM2_DTYPE=float32" in failed.text
        assert (await served.post(path, {"image_id": "day", **body})).status_code == 200


async def test_others_in_the_batch_are_answered() -> None:
    segmenter = Overflowing()
    async with serving(segmenter=segmenter) as served:
        await served.embed(picture(shade=DARK), "night")
        await served.embed(picture(shade=DARK + 1), "day")
        segmenter.gate.clear()
        first = asyncio.create_task(served.click("day"))
        await until(lambda: bool(segmenter.decoded))  # it is at the gate; the encodes have entered before
        others = [asyncio.create_task(served.click(name)) for name in ("night", "day")]
        await until(lambda: served.service._decoder.waiting == 2)
        segmenter.gate.set()
        replies = await asyncio.gather(first, *others)
        assert [len(batch) for batch in segmenter.decoded] == [1, 2]
        assert [reply.status_code for reply in replies] == [200, 500, 200]


async def test_a_track_takes_no_object_for_gone() -> None:
    async with serving(segmenter=Overflowing()) as served:
        for name, shade in (("day", DARK + 1), ("night", DARK)):
            await served.embed(picture(shade=shade), name)

        async def click(frame: int) -> httpx.Response:
            return await served.post("/tracks/walk/prompts", {"frame": frame, "object": 1, **CLICK})

        await served.post("/tracks", {"frames": ["day", "night"], "track_id": "walk"})
        assert error(await click(1)) == (500, "inference_failed")
        assert (await click(0)).status_code == 200
        first, last = (await served.post("/tracks/walk/propagate", {})).text.splitlines()
        assert '"frame":0' in first
        assert "inference_failed" in last
