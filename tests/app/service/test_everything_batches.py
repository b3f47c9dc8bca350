"""The batches of /everything: how large they are, and that clicks, uploads and other searches get their turn."""

import asyncio

import pytest

from app.service import search
from app.settings import Settings
from tests.app.requests_under_way import start
from tests.app.service.searches import FOUND, asking, stepping
from tests.fakes import picture, serving, until


async def test_a_click_of_another_waits_for_one_batch_at_most() -> None:
    async with stepping(Settings(workers=2, batch_prompts=4)) as (served, model):
        search_request = asking().request(served)
        await model.wait_until_entered()
        before = len(model.decoded)
        (click,) = start(served.click("dots", x=7, y=7))
        await until(lambda: served.service._decoder.waiting == 1)
        model.gate.set()  # the batch that was running
        await model.wait_until_entered()
        assert any(prompt.points == ((7, 7),) for prompt in model.decoded[before])
        model.gate.set()
        assert (await click).status_code == 200
        model.held = False
        model.gate.set()
        await search_request


async def test_a_click_of_another_passes_a_batch_that_pauses() -> None:
    """As on a CPU, where batches may so be longer."""
    async with stepping() as (served, model):
        search_request = asking().request(served)
        await model.wait_until_entered()
        before = len(model.order)
        (click,) = start(served.click("dots", x=7, y=7))
        await until(lambda: served.service._decoder.waiting == 1)
        model.gate.set()
        await model.wait_until_entered()
        assert model.order[before:] == ["decode"]
        assert [prompt.points for prompt in model.decoded[-1]] == [((7, 7),)]
        model.gate.set()
        assert (await click).status_code == 200
        model.held = False
        model.gate.set()
        await search_request


@pytest.mark.parametrize(("threads", "limit"), [(8, "_PASSED_BATCH_S"), (0, "_BATCH_S")])
async def test_batches_are_as_large_as_others_can_bear(
    monkeypatch: pytest.MonkeyPatch, threads: int, limit: str
) -> None:
    """Clicks pass those of a CPU; on a GPU they wait."""
    async with serving(Settings(workers=2, batch_prompts=16)) as served:
        monkeypatch.setattr(served.segmenter, "cpu_threads", threads)
        await served.embed(picture(), "dots")
        monkeypatch.setattr(search, limit, 1000.0)
        await served.post("/everything", {"image_id": "dots", **FOUND})
        assert max(len(batch) for batch in served.segmenter.decoded) == 16
        served.segmenter.decoded.clear()
        monkeypatch.setattr(search, limit, 0.0)
        await served.post("/everything", {"image_id": "dots", **FOUND})
        assert [len(batch) for batch in served.segmenter.decoded][2:] == [1] * 32  # two had been under way


async def test_batches_are_even_because_cores_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Settings(workers=2, batch_prompts=5)) as served:
        await served.embed(picture(), "dots")
        monkeypatch.setattr(search, "_PASSED_BATCH_S", 1000.0)
        await served.post("/everything", {"image_id": "dots", **FOUND})
        *sizes, _ = [len(batch) for batch in served.segmenter.decoded]
        assert sizes == [2, 2] + [4] * (len(sizes) - 2)


@pytest.mark.parametrize("most_waiting", [6, 16, 40])
async def test_batches_have_room_in_a_short_queue(monkeypatch: pytest.MonkeyPatch, most_waiting: int) -> None:
    """They grew beyond SAM2_MAX_WAITING_PROMPTS, so an idle server answered every search with 503 halfway."""
    monkeypatch.setattr(search, "_PASSED_BATCH_S", 1000.0)
    settings = Settings(workers=2, max_prompts=1, max_waiting_prompts=most_waiting)
    async with serving(settings) as served:
        await served.embed(picture(), "dots")
        callers = [served.post("/everything", {"image_id": "dots", **FOUND}) for _ in range(3)]
        for reply in await asyncio.gather(*callers):
            assert reply.status_code == 200, reply.text


async def test_the_next_batch_waits_while_one_runs_and_none_after_it() -> None:
    """So the device has no gap between them, and not more is in flight than that."""
    async with stepping(Settings(workers=2, batch_prompts=4)) as (served, model):
        search_request = asking().request(served)
        for size in (2, 2, 4, 4):
            await model.wait_until_entered()
            await until(lambda: served.service._searcher.waiting > 0)
            assert len(model.decoded[-1]) == size
            assert served.service._searcher.waiting <= 4
            model.gate.set()
        model.held = False
        await search_request


async def test_two_searches_take_turns_and_share_no_batch() -> None:
    async with stepping(Settings(workers=2, batch_prompts=4)) as (served, model):
        model.held = False
        await served.embed(picture(shade=9), "others")
        await model.wait_until_entered()
        model.held = True
        callers = [asking(), asking(image_id="others")]
        requests = [caller.request(served) for caller in callers]
        calls = served.service._searcher._calls
        for _ in range(15):
            await model.wait_until_entered()
            # One batch of the search whose batch runs, and two of the other.
            await until(lambda: sum(map(len, calls.values())) == 3)
            model.gate.set()
        model.held = False
        model.gate.set()
        await asyncio.gather(*requests)
        assert all(len(each) == 1 for each in model.searched)
        for i in range(12):
            assert len(set[int]().union(*model.searched[i : i + 4])) == 2


async def test_uploads_get_their_turn() -> None:
    async with stepping(Settings(workers=2, batch_prompts=4)) as (served, model):
        request = asking(points_per_side=16).request(served)
        await model.wait_until_entered()
        (upload,) = start(served.embed(picture(shade=9)))
        await until(lambda: served.service._encoder.waiting == 1)
        before = len(model.order)
        model.held = False
        model.gate.set()
        assert (await upload).status_code == 200
        await request
        assert model.order.index("encode", before) - before <= 1
        assert len(model.order) > before + 10
