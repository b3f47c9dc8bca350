"""/everything beside others: progress in lines, it stops when nobody waits for it, and holds little memory."""

import asyncio
import json
import time
from collections.abc import MutableMapping
from typing import Any

import pytest

from app.service import search
from app.settings import Settings
from tests.app.requests_under_way import start
from tests.app.service.searches import FOUND, LINES, asking, stepping
from tests.fakes import LONG_S, error, picture, serving, until


async def test_every_step_is_a_line_and_the_reply_is_the_last() -> None:
    async with serving() as served:
        await served.embed(picture(), "dots")
        whole = await served.post("/everything", {"image_id": "dots", **FOUND})
        lines = await served.client.post(
            "/everything",
            json={"image_id": "dots", **FOUND},
            headers=[("Accept", "*/*;q=0.5"), ("Accept", f"text/plain, {LINES.upper()};q=0.9; x=y")],
        )
        assert lines.headers["content-type"] == LINES
        *steps, last = [json.loads(line) for line in lines.text.splitlines()]
        assert last == whole.json()
        assert steps[0] == {"progress": 0.0, "found": 0}
        assert steps[-1]["progress"] == 1.0
        assert steps[-1]["found"] >= len(last["masks"])
        assert [step["progress"] for step in steps] == sorted(step["progress"] for step in steps)
        assert len(steps) >= 2  # on a busy machine, steps meanwhile share a line
        likes_less = (
            f"application/json, {LINES};q=0.1",
            f"{LINES} ; Q=0.9, */*",
            f"APPLICATION/*, {LINES};q=0.9",
        )
        for accept in ("*/*", f"{LINES};q=0", "application/json", *likes_less):
            plain = await served.client.post(
                "/everything", json={"image_id": "dots", **FOUND}, headers={"Accept": accept}
            )
            assert plain.json() == whole.json()


async def test_what_is_wrong_from_the_start_has_its_status_and_what_goes_wrong_later_is_the_last_line() -> (
    None
):
    async with serving() as served:
        headers = {"Accept": LINES}
        response = await served.client.post("/everything", json={"image_id": "nobody"}, headers=headers)
        assert error(response) == (404, "image_not_found")
        await served.embed(picture(), "dots")
        served.segmenter.fail_next = RuntimeError("broken")
        response = await served.client.post(
            "/everything", json={"image_id": "dots", **FOUND}, headers=headers
        )
        assert response.status_code == 200
        *_, last = [json.loads(line) for line in response.text.splitlines()]
        assert last["error"]["code"] == "inference_failed"
        assert served.service.searches.held_bytes == 0
        served.segmenter.fail_next = RuntimeError("broken")
        assert error(await served.post("/everything", {"image_id": "dots"})) == (500, "inference_failed")


@pytest.mark.parametrize("accept", [LINES, "application/json"])
async def test_the_work_stops_when_the_client_is_gone(accept: str) -> None:
    async with stepping() as (served, model):
        caller = asking()
        request = caller.request(served, accept=accept)
        for _ in range(2):
            await model.wait_until_entered()
            model.gate.set()
        await model.wait_until_entered()
        caller.gone.set()
        await request
        model.gate.set()
        batches = len(model.decoded)
        assert served.service.searches.held_bytes == 0
        (click,) = start(served.click("dots"))
        await model.wait_until_entered()
        model.gate.set()
        assert (await click).status_code == 200
        assert len(model.decoded) == batches + 1  # the click's: nothing more was asked for
        assert not any("masks" in line for line in caller.lines)


async def test_few_run_at_once_and_a_newcomer_is_one_of_them() -> None:
    async with stepping() as (served, model):
        callers = [asking() for _ in range(4)]
        requests = [caller.request(served) for caller in callers]
        await model.wait_until_entered()
        await until(lambda: all(caller.lines for caller in callers))
        turns = served.service.searches._turns
        assert turns._taken == 2
        model.held = False
        model.gate.set()
        await asyncio.gather(*requests)
        assert [len(caller.lines[-1]["masks"]) > 0 for caller in callers] == [True] * 4
        assert turns._taken == 0


async def test_no_more_wait_than_pictures_may() -> None:
    """Each holds an embedding, beside those that the cache may hold, for as long as it waits."""
    async with stepping(Settings(max_waiting_images=3)) as (served, model):
        callers = [asking() for _ in range(3)]
        requests = [caller.request(served) for caller in callers]
        await model.wait_until_entered()
        await until(lambda: all(caller.lines for caller in callers))
        refused = await asyncio.wait_for(served.post("/everything", {"image_id": "dots"}), LONG_S)
        assert error(refused) == (503, "overloaded")
        assert "SAM2_MAX_WAITING_IMAGES" in refused.text
        callers[2].gone.set()
        await requests[2]
        model.held = False
        model.gate.set()
        await asyncio.gather(*requests)
        assert (await served.post("/everything", {"image_id": "dots"})).status_code == 200


async def test_a_queue_for_one_prompt_takes_searches_too() -> None:
    """It refused all of them."""
    async with serving(Settings(workers=2, max_prompts=1, max_waiting_prompts=1)) as served:
        await served.embed(picture(), "dots")
        found = [
            served.post("/everything", {"image_id": "dots", "use_m2m": use, **FOUND}) for use in (False, True)
        ]
        for reply in await asyncio.gather(*found):
            assert reply.status_code == 200, reply.text


async def test_masks_that_take_too_much_memory_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as served:
        await served.embed(picture(), "dots")
        monkeypatch.setattr(served.service.searches._shares, "alone", 2000)
        response = await served.post("/everything", {"image_id": "dots", **FOUND})
        assert error(response) == (422, "invalid_prompt")
        assert "pred_iou_thresh" in response.text
        monkeypatch.undo()
        served.service.searches._shares.add("somebody else", served.service.searches._shares.capacity)
        response = await served.post("/everything", {"image_id": "dots", **FOUND})
        assert error(response) == (503, "overloaded")
        assert "retry-after" in response.headers


@pytest.mark.parametrize("accept", [LINES, "application/json"])
async def test_it_has_a_deadline_of_its_own(accept: str) -> None:
    async with serving(Settings(workers=2, deadline_s=20, everything_deadline_s=1)) as served:
        await served.embed(picture(), "dots")
        served.segmenter.gate.clear()
        response = await served.client.post(
            "/everything", json={"image_id": "dots", **FOUND}, headers={"Accept": accept}
        )
        assert response.status_code == (504 if accept != LINES else 200)
        last = json.loads(response.text.splitlines()[-1])
        assert last["error"]["code"] == "deadline_exceeded"
        assert "SAM2_EVERYTHING_DEADLINE_S" in last["error"]["message"]
        assert "ask for less" in last["error"]["message"]  # on an idle server, waiting does not help
        limits = (await served.client.get("/model")).json()["limits"]
        assert limits["everything_deadline_s"] == 1


async def test_what_cannot_be_in_time_is_given_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_TOLD_AFTER_S", 0.0)
    async with serving(Settings(workers=2, everything_deadline_s=1.0)) as served:
        await served.embed(picture(), "dots")
        served.segmenter._hold = lambda: time.sleep(0.02)
        monkeypatch.setattr(search, "_PASSED_BATCH_S", 0.0)
        response = await served.post("/everything", {"image_id": "dots", **FOUND, "points_per_side": 64})
        assert error(response) == (504, "deadline_exceeded")
        assert "of 4096 points" in response.text
        assert len(served.segmenter.decoded) < 20


async def test_a_slow_reader_skips_steps_and_holds_nobody_up() -> None:
    async with serving() as served:
        await served.embed(picture(), "dots")
        caller, reading = asking(), asyncio.Event()
        send = caller.send

        async def slow(message: MutableMapping[str, Any]) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                await reading.wait()

        caller.send = slow  # type: ignore[method-assign]
        request = caller.request(served)
        await until(lambda: served.service.searches._turns._taken == 0 and len(served.segmenter.decoded) > 3)
        reading.set()
        await request
        assert len(caller.lines) < 6
        assert "masks" in caller.lines[-1]
