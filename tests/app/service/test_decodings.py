"""Where masks are shaped: on the device thread for a single click or on few cores, otherwise in a worker."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from app.codecs.answers import MaskAnswer, MaskOptions, answer
from app.scheduling.batching import Ran
from app.scheduling.device import DeviceThread
from app.scheduling.shares import Workers
from app.service import decodings
from app.service.decodings import DecodeBatch, Job, SearchBatch, Shaped, shape_all
from app.settings import Settings
from app.telemetry.stages import StageTimes
from model.types import Prediction, Prompt
from tests.fakes import LONG_S, FakeSegmenter, Served, picture, serving, until

T = TypeVar("T")

CLICK = {"point_coords": [[30, 20]], "point_labels": [1]}


class OnTwoThreads(FakeSegmenter):
    """A model that decodes on all cores of a small machine."""

    cpu_threads = 2


class OnGpu(FakeSegmenter):
    """A model that needs no CPU core."""

    cpu_threads = 0


@pytest.fixture
def shaped_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the kinds of threads that shape masks, in order."""
    threads: list[str] = []

    def seen(*arguments: Any, **options: Any) -> list[MaskAnswer]:
        threads.append(threading.current_thread().name.split("_")[0])
        return answer(*arguments, **options)

    monkeypatch.setattr("app.service.decodings.answer", seen)
    return threads


@pytest.mark.parametrize("segmenter", [FakeSegmenter, OnGpu])
async def test_a_lone_click_is_handed_to_nobody(segmenter: type[FakeSegmenter], shaped_by: list[str]) -> None:
    async with serving(segmenter=segmenter()) as served:
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


async def decode_behind_another(served: Served, *bodies: Mapping[str, object]) -> list[httpx.Response]:
    """Send decode requests that form one batch, because the device is busy with a click."""
    served.segmenter.gate.clear()
    first = asyncio.create_task(served.click("truck"))
    await served.segmenter.wait_until_entered()
    calls = [
        asyncio.create_task(served.post("/decode", {"image_id": "truck", **CLICK, **body})) for body in bodies
    ]
    await until(lambda: served.service._decoder.waiting == len(bodies))
    served.segmenter.gate.set()
    await first
    return [await call for call in calls]


async def test_on_few_cores_the_masks_of_a_batch_are_shaped_before_the_next(
    shaped_by: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.decodings._SHAPING_S", LONG_S)  # however slow this machine is
    async with serving(segmenter=OnTwoThreads()) as served:
        await served.embed(picture(), "truck")
        await served.segmenter.wait_until_entered()
        plain, png, again = await decode_behind_another(served, {}, {"mask_format": "png"}, {})
        assert [len(batch) for batch in served.segmenter.decoded] == [1, 3]
        assert sorted(shaped_by) == ["device", "device", "device", "worker"]
        assert plain.json() == again.json()
        assert "png" in png.json()["predictions"][0]["masks"][0]


async def test_masks_that_take_long_go_to_workers_on_few_cores_too(
    shaped_by: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.decodings._SHAPING_S", -1)
    async with serving(segmenter=OnTwoThreads()) as served:
        await served.embed(picture(), "truck")
        reply = await served.post("/decode", {"image_id": "truck", "prompts": [CLICK, CLICK]})
        assert shaped_by == ["worker", "worker"]
        assert len(reply.json()["predictions"]) == 2


async def test_masks_of_a_wide_picture_go_to_workers_too(shaped_by: list[str]) -> None:
    async with serving(segmenter=OnTwoThreads()) as served:
        await served.embed(picture(8193, 40), "panorama")
        assert (await served.click("panorama")).status_code == 200
        assert shaped_by == ["worker"]


def test_the_stages_of_a_request_add_up_to_its_time() -> None:
    """Two prompts in two batches, each with 0.5 s of decoding and 0.25 s of shaping."""
    (embedding,) = FakeSegmenter().encode([np.zeros((40, 60, 3), np.uint8)])
    jobs = [Job(embedding, Prompt(), MaskOptions(), 4)] * 2
    ran = [
        Ran(Shaped([], 0.25), queue_s=0.0, device_s=0.75, batch_size=1),
        Ran(Shaped([], 0.25), queue_s=0.75, device_s=0.75, batch_size=1),
    ]
    times = StageTimes()
    workers = Workers(1)
    asyncio.run(shape_all(jobs, ran, workers=workers, share="", times=times))
    workers.close()
    assert times.seconds == pytest.approx({"queue": 0.75, "device": 0.5, "masks": 0.25})
    ends = [(stage.started_at, stage.ended_at) for stage in times.stages]
    assert all(later == pytest.approx(end, abs=0.1) for (_, end), (later, _) in pairwise(ends))


async def test_a_request_may_have_masks_of_both_kinds(
    shaped_by: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = decodings.answer

    def slow(*arguments: Any, **options: Any) -> list[MaskAnswer]:
        monkeypatch.setattr("app.service.decodings._SHAPING_S", -1)  # from the second batch on
        return seen(*arguments, **options)

    other = {"point_coords": [[5, 5]], "point_labels": [1]}
    async with serving(Settings(batch_prompts=1), OnTwoThreads()) as served:
        await served.embed(picture(), "truck")
        alone = [
            (await served.post("/decode", {"image_id": "truck", **each})).json() for each in (CLICK, other)
        ]
        shaped_by.clear()
        monkeypatch.setattr("app.service.decodings.answer", slow)
        both = await served.post("/decode", {"image_id": "truck", "prompts": [CLICK, other]})
        assert shaped_by == ["device", "worker"]
        assert both.json()["predictions"] == [reply["predictions"][0] for reply in alone]
        stages = [part.split(";")[0] for part in both.headers["server-timing"].split(", ")]
        assert stages == ["queue", "device", "masks"]


async def test_a_fault_in_shaping_costs_one_click(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(prediction: Prediction, **options: Any) -> list[MaskAnswer]:
        if options["options"].mask_format == "rle_uncompressed":
            raise ZeroDivisionError
        return answer(prediction, **options)

    async with serving(segmenter=OnTwoThreads()) as served:
        await served.embed(picture(), "truck")
        await served.segmenter.wait_until_entered()
        monkeypatch.setattr("app.service.decodings.answer", broken)
        poison = {"mask_format": "rle_uncompressed"}
        replies = await decode_behind_another(served, {}, poison, {})
        assert [reply.status_code for reply in replies] == [200, 500, 200]
        assert replies[1].json()["error"]["code"] == "internal_error"
        assert "ZeroDivisionError" in caplog.text


async def test_noise_is_shaped_by_workers_a_few_masks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device thread, where clicks cannot pass, three masks of 24 megapixels took half a second."""
    (embedding,) = FakeSegmenter().encode([np.zeros((120, 180, 3), np.uint8)])
    embedding = replace(embedding, height=1200, width=1800)
    noise, smooth = np.random.default_rng(0).normal(size=(3, 256, 256)).astype(np.float32), np.ones((1, 8, 8))
    seen = [Prediction(each.astype(np.float32), np.ones(len(each)), 1.0) for each in (noise, smooth)]
    job = Job(embedding, Prompt(), MaskOptions(), 4)
    decode = DecodeBatch(lambda _: seen, device=DeviceThread(), shares_cores=lambda: True)
    search = SearchBatch(
        lambda jobs, finish: [finish(place, seen[place]) for place in range(len(jobs))],
        shares_cores=lambda: True,
    )
    for batch in (decode, search):
        left, shaped = batch([job, job])
        assert left is seen[0]
        assert isinstance(shaped, Shaped)
    turns: list[str] = []

    class Counted(Workers):
        async def run(self, job: Callable[[], T], *, share: str) -> T:
            turns.append(share)
            return await super().run(job, share=share)

    ran = [Ran(each, queue_s=0, device_s=0, batch_size=2) for each in (seen[0], shaped, seen[1])]
    workers = Counted(1)
    for turn_s, number in ((LONG_S, 1), (-1, 3)):
        monkeypatch.setattr(decodings, "_TURN_S", turn_s)
        masks = await shape_all([job] * 3, ran, workers=workers, share="ann", times=StageTimes())
        assert [len(each) for each in masks] == [3, 1, 1]
        assert turns == ["ann"] * number
        turns.clear()
    workers.close()


async def test_prompts_of_many_points_make_smaller_batches() -> None:
    """32 of 200 points take as long as 130 of one, and a click that comes meanwhile waits for two batches."""
    many = {"point_coords": [[30, 20]] * 256, "point_labels": [1] * 256}
    async with serving(Settings(batch_prompts=8)) as served:
        await served.embed(picture(), "truck")
        for prompt, size in ((CLICK, 8), (many, 2)):
            served.segmenter.decoded.clear()
            assert (await served.post("/decode", {"image_id": "truck", "prompts": [prompt] * 16})).is_success
            assert max(map(len, served.segmenter.decoded)) == size
