"""Tracks that are made again from many prompts, by requests that have less time than that takes."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from app.codecs.answers import MaskOptions
from app.errors import DeadlineExceeded
from app.service.track_values import Range
from app.settings import Settings
from model.types import Embedding
from tests.app.routes.track_requests import begin, click, lines
from tests.fakes import FakeSegmenter, Served, error, serving, until

OBJECTS = 4


async def begun(settings: Settings) -> list[dict[str, Any]]:
    """A track with a click on each object; returns what is found of them."""
    async with serving(settings) as served:
        await begin(served, 2, track_id="walk")
        for number in range(OBJECTS):
            await click(served, "walk", object=number, point_coords=[[10 + 10 * number, 20]])
        return await lines(served, "walk")


async def test_a_request_goes_on_where_the_deadline_of_another_ended(tmp_path: Path) -> None:
    """Each began at the first prompt again, so after a restart a track of many prompts was never answered."""
    settings = Settings(workers=2, cache_dir=str(tmp_path))
    before = await begun(settings)
    async with serving(settings, FakeSegmenter()) as served:
        live = served.service.tracks._live
        find, asked = live._embedding, 0

        def late(*given: Any, **named: Any) -> Awaitable[Embedding]:
            nonlocal asked
            asked += 1
            if asked in (3, 5):
                raise DeadlineExceeded("It took too long.")
            return find(*given, **named)

        live._embedding = late  # type: ignore[assignment]
        for made in (2, 3):
            assert error(await click(served, "walk", object=9)) == (504, "deadline_exceeded")
            assert len(served.segmenter.decoded) == made
            assert live.used_bytes > 0  # it counts, and may be forgotten
        assert [each["object"] for each in (await lines(served, "walk"))[0]["objects"]] == [*range(OBJECTS)]
        assert await lines(served, "walk") == before
        assert served.segmenter.begun == 1


async def test_a_prompt_that_is_given_while_its_caller_goes_is_given_once(tmp_path: Path) -> None:
    settings = Settings(workers=2, cache_dir=str(tmp_path))
    before = await begun(settings)
    async with serving(settings, FakeSegmenter()) as served:
        served.segmenter.gate.clear()
        task = asyncio.create_task(_first_frame(served))
        await until(lambda: len(served.segmenter.decoded) == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        served.segmenter.gate.set()
        assert await lines(served, "walk") == before
        assert [len(batch[0].points) for batch in served.segmenter.decoded[:OBJECTS]] == [1] * OBJECTS


async def test_prompts_that_changed_meanwhile_are_not_mixed_with_those_before(
    tmp_path: Path,
) -> None:
    settings = Settings(workers=2, cache_dir=str(tmp_path))
    await begun(settings)
    async with serving(settings, FakeSegmenter()) as served:
        served.segmenter.fail_next = RuntimeError("the model broke")
        assert error(await click(served, "walk", object=9)) == (500, "inference_failed")
        assert (await served.client.delete("/tracks/walk/objects/0")).status_code == 204
        found = (await lines(served, "walk"))[0]["objects"]
        assert [each["object"] for each in found] == [*range(1, OBJECTS)]


async def _first_frame(served: Served) -> None:
    found = served.service.tracks.propagate(
        "walk", Range(), options=MaskOptions(), non_overlapping=False, tenant="", share=""
    )
    await anext(found)
