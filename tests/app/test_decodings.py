"""Where masks are shaped: at once for a lone click, in a worker where that would hold somebody up."""

import asyncio
import threading
from typing import Any

import pytest

from app.answers import MaskAnswer, answer
from app.settings import Settings
from tests.fakes import FakeSegmenter, picture, serving, until

CLICK = {"point_coords": [[30, 20]], "point_labels": [1]}


@pytest.fixture
def shaped_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of threads that shaped masks, in order."""
    threads: list[str] = []

    def seen(*arguments: Any, **options: Any) -> list[MaskAnswer]:
        threads.append(threading.current_thread().name.split("_")[0])
        return answer(*arguments, **options)

    monkeypatch.setattr("app.decodings.answer", seen)
    return threads


async def test_a_lone_click_is_handed_to_nobody(shaped_by: list[str]) -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        lone = await served.click("truck")
        together = await served.post("/decode", {"image_id": "truck", "prompts": [CLICK, CLICK]})
        assert shaped_by == ["device", "worker", "worker"]
        assert together.json()["predictions"] == lone.json()["predictions"] * 2
        stages = [part.split(";")[0] for part in lone.headers["server-timing"].split(", ")]
        assert stages == ["queue", "device", "masks"]


@pytest.mark.parametrize(
    "slow",
    [{"mask_format": "polygons"}, {"mask_format": "png"}, {"max_hole_area": 8}, {"return_logits": True}],
)
async def test_what_takes_longer_does_not_keep_the_device(
    slow: dict[str, object], shaped_by: list[str]
) -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        await served.post("/decode", {"image_id": "truck", **CLICK, **slow})
        assert shaped_by == ["worker"]


async def test_whoever_waits_for_the_device_does_not_wait_for_the_masks_of_others(
    shaped_by: list[str],
) -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        await served.segmenter.wait_until_entered()
        served.segmenter.gate.clear()
        first = asyncio.create_task(served.click("truck"))
        await served.segmenter.wait_until_entered()
        second = asyncio.create_task(served.click("truck"))
        await until(lambda: served.service._decoder.waiting == 1)
        served.segmenter.gate.set()
        assert (await first).json() == (await second).json()
        assert sorted(shaped_by) == ["device", "worker"]


async def test_a_picture_that_is_being_encoded_does_not_wait_for_masks(shaped_by: list[str]) -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        await served.segmenter.wait_until_entered()
        served.segmenter.gate.clear()
        upload = asyncio.create_task(served.embed(picture(shade=9)))
        await served.segmenter.wait_until_entered()
        click = asyncio.create_task(served.click("truck"))
        await until(lambda: served.service._decoder.waiting == 1)
        served.segmenter.gate.set()
        assert [(await call).status_code for call in (upload, click)] == [200, 200]
        assert shaped_by == ["worker"]


async def test_a_fault_in_shaping_costs_one_click(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> list[MaskAnswer]:
        raise ZeroDivisionError

    async with serving(Settings(workers=1), FakeSegmenter()) as served:
        await served.embed(picture(), "truck")
        with monkeypatch.context() as patch:
            patch.setattr("app.decodings.answer", broken)
            failed = await served.click("truck")
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "inference_failed")
        assert (await served.click("truck")).status_code == 200
