"""/everything beside others: clicks go between its batches, it stops for nobody's sake, and holds little memory."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.service import search
from app.settings import Settings
from tests.app.requests_under_way import start
from tests.fakes import FakeSegmenter, Served, error, picture, serving, until

LINES = "application/x-ndjson"
FOUND = {"points_per_side": 8, "stability_score_thresh": 0.5, "pred_iou_thresh": 0.4}


@dataclass
class Caller:
    """A client whose connection may be lost, which httpx's transport cannot play."""

    body: bytes
    sent: list[MutableMapping[str, Any]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    asked: bool = False

    async def receive(self) -> MutableMapping[str, Any]:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(m["body"]) for m in self.sent if m["type"] == "http.response.body" and m["body"]]

    def request(self, served: Served, *, accept: str = LINES) -> asyncio.Task[None]:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/everything",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"accept", accept.encode())],
        }
        return asyncio.create_task(served.app(scope, self.receive, self.send))  # type: ignore[arg-type]


def asking(**options: Any) -> Caller:
    return Caller(json.dumps({"image_id": "dots", **FOUND, **options}).encode())


class Stepping(FakeSegmenter):
    """While `held`, closes its gate behind each decode batch."""

    def __init__(self) -> None:
        super().__init__(hold=self._step)
        self.held = False

    def _step(self) -> None:
        if self.held and self.order[-1] == "decode":
            self._wait_at_gate()
            self.gate.clear()


@asynccontextmanager
async def stepping(settings: Settings | None = None) -> AsyncIterator[tuple[Served, Stepping]]:
    """A service with a picture called dots, where every batch waits for the gate and closes it behind it."""
    model = Stepping()
    async with serving(settings, model) as served:
        await served.embed(picture(), "dots")
        await served.click("dots")
        while model._entered.acquire(blocking=False):
            pass
        model.held = True
        model.gate.clear()
        try:
            yield served, model
        finally:
            model.held = False
            model.gate.set()


async def test_every_step_is_a_line_and_the_reply_is_the_last() -> None:
    async with serving() as served:
        await served.embed(picture(), "dots")
        whole = await served.post("/everything", {"image_id": "dots", **FOUND})
        lines = await served.client.post(
            "/everything",
            json={"image_id": "dots", **FOUND},
            headers={"Accept": f"text/plain, {LINES};q=0.9"},
        )
        assert lines.headers["content-type"] == LINES
        *steps, last = [json.loads(line) for line in lines.text.splitlines()]
        assert last == whole.json()
        assert steps[0] == {"progress": 0.0, "found": 0}
        assert steps[-1]["progress"] == 1.0
        assert steps[-1]["found"] >= len(last["masks"])
        assert [step["progress"] for step in steps] == sorted(step["progress"] for step in steps)
        assert len(steps) >= 3
        for accept in ("*/*", f"{LINES};q=0", "application/json"):
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
        model.gate.set()
        await served.embed(picture(shade=9), "others")
        model.gate.clear()
        callers = [asking(), asking(image_id="others")]
        requests = [caller.request(served) for caller in callers]
        await until(lambda: served.service._searcher.waiting >= 6)
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
    async with serving(Settings(workers=2, deadline_s=20, everything_deadline_s=0.3)) as served:
        await served.embed(picture(), "dots")
        served.segmenter.gate.clear()
        response = await served.client.post(
            "/everything", json={"image_id": "dots", **FOUND}, headers={"Accept": accept}
        )
        assert response.status_code == (504 if accept != LINES else 200)
        last = json.loads(response.text.splitlines()[-1])
        assert last["error"]["code"] == "deadline_exceeded"
        assert "SAM2_EVERYTHING_DEADLINE_S" in last["error"]["message"]
        limits = (await served.client.get("/model")).json()["limits"]
        assert limits["everything_deadline_s"] == 0.3


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
