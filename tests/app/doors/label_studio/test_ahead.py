"""What "Retrieve predictions" does: it is answered at once, and the pictures are embedded in the background."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from app.doors.label_studio import ahead
from app.doors.label_studio.pictures import Caller, Source
from app.errors import InvalidImage, Overloaded, RateLimited
from tests.app.doors.label_studio.studio import Studio, body, connected, key_point
from tests.fakes import Served, picture, until


def batch(studio: Studio, number: int, **changed: Any) -> dict[str, Any]:
    """Return the body of "Retrieve predictions" for so many tasks, each with its own picture."""
    for task in range(number):
        studio.pictures[f"/data/{task}.png"] = picture(shade=task)
    tasks = [{"id": task, "data": {"image": f"/data/{task}.png"}} for task in range(number)]
    return body(tasks=tasks, params={"login": None, "password": None, "context": None}) | changed


async def retrieve(served: Served, sent: dict[str, Any]) -> list[Any]:
    reply = await served.post("/label-studio/predict", sent)
    assert reply.status_code == 200, reply.text
    results: list[Any] = reply.json()["results"]
    return results


async def counts(served: Served) -> dict[str, float]:
    lines = (await served.client.get("/metrics")).text.splitlines()
    found = dict(
        line.rsplit(" ", 1)
        for line in lines
        if line.startswith(("sam2_embedded_ahead_total", "sam2_pictures_ahead"))
    )
    outcomes = {
        name: found[f'sam2_embedded_ahead_total{{outcome="{name}"}}']
        for name in ("embedded", "known", "failed")
    }
    return {name: float(value) for name, value in (outcomes | {"wait": found["sam2_pictures_ahead"]}).items()}


def runs_of(served: Served) -> ahead.Ahead:
    found: ahead.Ahead = served.app.state.label_studio_ahead
    return found


def idle(served: Served) -> Callable[[], bool]:
    return lambda: not runs_of(served)._tasks


async def test_every_task_is_answered_at_once_and_embedded_later(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with connected() as (served, studio):
        served.segmenter.gate.clear()
        results = await retrieve(served, batch(studio, 5))
        assert results == [{"result": [], "score": 0, "model_version": "fake-01234567"}] * 5
        assert (await counts(served))["wait"] == 5
        served.segmenter.gate.set()
        await until(idle(served))
        assert await counts(served) == {"embedded": 5, "known": 0, "failed": 0, "wait": 0}
        assert "project '1': 0 of 5 pictures embedded ahead" in caplog.text
        assert "project '1': 5 of 5 pictures embedded ahead, 0 of them before, 0 failed; done" in caplog.text
        asked = len(studio.requests)
        click = await served.post("/label-studio/predict", body(key_point(), data={"image": "/data/3.png"}))
        assert click.status_code == 200
        assert len(served.segmenter.encoded) == 5
        await retrieve(served, batch(studio, 5))
        await until(idle(served))
        assert (await counts(served))["known"] == 5
        assert len(studio.requests) <= asked + 1


async def test_nothing_to_do() -> None:
    async with connected() as (served, studio):
        assert await retrieve(served, batch(studio, 0)) == []
        assert len(await retrieve(served, batch(studio, 1, tasks=[{"id": 1, "data": {}}], params=None))) == 1
        assert idle(served)()


async def test_single_pictures_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (served, studio):
        sent = batch(studio, 4)
        studio.pictures["/data/0.png"] = b"no picture"
        del studio.pictures["/data/1.png"]
        sent["tasks"][2]["data"]["image"] = "http://169.254.169.254/a.png"
        await retrieve(served, sent)
        await until(idle(served))
        assert await counts(served) == {"embedded": 1, "known": 0, "failed": 3, "wait": 0}
        assert "task 1 was not embedded ahead: Label Studio answers with status 404" in caplog.text


async def test_bugs_and_busy_servers_do_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as (served, studio):
        failures: list[Exception] = [RuntimeError("a bug"), Overloaded("busy", retry_after_s=0)]
        real = runs_of(served)._embed

        async def embed(source: Any, caller: Caller) -> tuple[bool, int]:
            if failures:
                raise failures.pop(0)
            return await real(source, caller)

        monkeypatch.setattr(runs_of(served), "_embed", embed)
        await retrieve(served, batch(studio, 3))
        await until(idle(served))
        assert await counts(served) == {"embedded": 2, "known": 0, "failed": 1, "wait": 0}


async def test_a_server_that_stays_busy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def embed(source: Any, caller: Caller) -> tuple[bool, int]:
        raise Overloaded("busy", retry_after_s=0)

    async with connected() as (served, studio):
        monkeypatch.setattr(runs_of(served), "_embed", embed)
        await retrieve(served, batch(studio, 1))
        await until(idle(served))
        assert (await counts(served))["failed"] == 1


async def test_pictures_that_fail_at_once_leave_other_requests_their_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where no picture may be fetched: thousands of them would stop the event loop for half a minute."""
    failed = 0

    async def embed(source: Any, caller: Caller) -> tuple[bool, int]:
        nonlocal failed
        failed += 1
        raise InvalidImage("It may not be fetched.")

    async with connected() as (served, _):
        monkeypatch.setattr(runs_of(served), "_embed", embed)
        await runs_of(served).add([Source(str(task), f"/{task}") for task in range(100)], Caller("", "", "1"))
        seen = set()
        while not idle(served)():
            await asyncio.sleep(0)
            seen.add(failed)
        assert failed == 100
        assert len(seen) > 50


async def test_clicks_go_first() -> None:
    async with connected() as (served, studio):
        with runs_of(served).click():
            await retrieve(served, batch(studio, 3))
            for _ in range(50):
                await asyncio.sleep(0)
            assert studio.requests == []
        await until(idle(served))
        assert (await counts(served))["embedded"] == 3


async def test_a_run_ends_when_the_server_stops(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with connected() as (served, studio):
        served.segmenter.gate.clear()
        await retrieve(served, batch(studio, 30))
        await served.segmenter.wait_until_entered()
        served.service.drain()
        served.segmenter.gate.set()
        await until(idle(served))
        assert "stopped, because the server stops" in caplog.text
        assert len(served.segmenter.encoded) < 30
    async with connected() as (served, studio):
        served.segmenter.gate.clear()
        await retrieve(served, batch(studio, 30))
        await served.segmenter.wait_until_entered()
        served.segmenter.gate.set()
        await runs_of(served).close()
        assert idle(served)()


async def test_waiting_pictures_are_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ahead, "MOST_WAITING", 3)
    monkeypatch.setattr(ahead, "MOST_RUNS", 1)
    async with connected() as (served, studio):
        served.segmenter.gate.clear()
        assert len(await retrieve(served, batch(studio, 5))) == 5
        assert (await counts(served))["wait"] == 3
        await retrieve(served, batch(studio, 3))  # they wait already
        await retrieve(served, batch(studio, 2, project="2.1"))
        assert (await counts(served))["wait"] == 3
        served.segmenter.gate.set()
        await until(idle(served))
        assert "too many wait already" in caplog.text


async def test_one_client_leaves_room_for_the_pictures_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a project with many tasks would keep all others from being embedded ahead for hours."""
    monkeypatch.setattr(ahead, "MOST_WAITING", 30)
    async with connected() as (served, _):
        served.segmenter.gate.clear()
        runs = runs_of(served)
        waiting = []
        for share in ("anna", "bert"):
            await runs.add([Source(str(task), f"/{task}") for task in range(50)], Caller("", share, "1"))
            waiting.append(runs.waiting)
        assert waiting == [30, 37]
        await runs.close()


async def _over_its_rate() -> None:
    raise RateLimited("too many", retry_after_s=3600)


async def _without_an_end() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("of_anna", [_over_its_rate, _without_an_end])
async def test_a_client_over_its_rate_or_of_a_slow_server_does_not_hold_up_another(
    of_anna: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    async def embed(source: Source, caller: Caller) -> tuple[bool, int]:
        if caller.share == "anna":
            await of_anna()
        done.append(source.task)
        return False, 1000

    async with connected() as (served, _):
        runs = runs_of(served)
        monkeypatch.setattr(runs, "_embed", embed)
        for project in "123":
            await runs.add([Source("1", "/1"), Source("2", "/2")], Caller("", "anna", project))
        for _ in range(20):
            await asyncio.sleep(0)
        await runs.add([Source("1", "/1"), Source("2", "/2")], Caller("", "bert", "4"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert done == ["1", "2"]
        await runs.close()


async def test_runs_leave_half_of_the_rate_to_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each click on a picture that is not embedded yet would get 429 until a project is done."""
    now = 1000.0
    done: list[tuple[str, float]] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        await asyncio.sleep(0)

    async def embed(source: Source, caller: Caller) -> tuple[bool, int]:
        done.append((source.task, now))
        return source.task == "1", 1000

    async with connected(rate_pictures_per_minute=20) as (served, _):
        runs = runs_of(served)
        monkeypatch.setattr(runs, "_embed", embed)
        monkeypatch.setattr(ahead, "monotonic", lambda: now)
        monkeypatch.setattr(ahead, "asyncio", SimpleNamespace(create_task=asyncio.create_task, sleep=sleep))
        for project in "12":
            await runs.add([Source(str(task), "/") for task in range(3)], Caller("", "anna", project))
        await asyncio.gather(*runs._tasks)
        times = [at for task, at in done if task != "1"]  # the others were known
        assert len(done) == 6
        assert all(later - earlier >= 6 for earlier, later in pairwise(times))
        assert times[-1] - times[0] < 30
        assert runs._paused_until == {}
        monkeypatch.undo()


async def test_waiting_pictures_are_bounded_in_bytes_and_added_in_turns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Addresses may have kilobytes, and 100,000 at once held the event loop for 0.3 s."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    sources = [Source(str(task), "/" + "a" * 5000) for task in range(20_000)]
    async with connected() as (served, _):
        served.segmenter.gate.clear()
        runs = runs_of(served)
        monkeypatch.setattr(runs._quiet, "wait", asyncio.Event().wait)
        counting = asyncio.create_task(count_turns())
        await runs.add(sources, Caller("", "", "1"))
        counting.cancel()
        assert turns > 3
        assert 0 < runs.waiting * 5000 < ahead.MOST_BYTES
        assert f"{20_000 - runs.waiting} more are not" in caplog.text
        waiting = runs.waiting
        await runs.add([Source("1", "/b" * 4000)], Caller("", "", "2"))
        await runs.add([], Caller("", "", "3"))
        assert runs.waiting == waiting
        await runs.close()
        assert (runs.waiting, runs._bytes.used, runs._runs_of.used) == (0, 0, 0)


async def test_a_project_never_fills_the_whole_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected() as (served, studio):
        monkeypatch.setattr(served.service, "keeps", lambda _: 6)
        await retrieve(served, batch(studio, 10))
        await until(idle(served))
        assert (await counts(served))["embedded"] == 3
        assert "push others out of memory" in caplog.text
