"""Servers that share tracks and videos through PostgreSQL, and its clock, as their clients see it."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from tests.app.routes.track_requests import CLICK
from tests.app.storage.kept_images import on_disk
from tests.app.storage.two_servers import two
from tests.fakes import LONG_S, Served, error, picture, serving, until
from tests.postgres import running_postgres
from tests.small_videos import clip


async def begin_track(served: Served, track_id: str) -> httpx.Response:
    return await served.post("/tracks", {"frames": ["f0", "f1", "f2"], "track_id": track_id})


async def propagated(served: Served, track_id: str) -> str:
    reply = await served.post(f"/tracks/{track_id}/propagate", {"from": 0})
    assert reply.status_code == 200, reply.text
    return reply.text


async def test_a_track_goes_on_at_another_server(url: str, tmp_path: Path) -> None:
    async with two(url, tmp_path) as (one, other):
        for number in range(3):
            await one.embed(picture(shade=number), f"f{number}")
            await on_disk(one, f"f{number}")
        assert (await begin_track(one, "walk")).status_code == 200
        assert error(await begin_track(other, "walk")) == (409, "track_id_conflict")
        assert (await one.post("/tracks/walk/prompts", CLICK)).status_code == 200
        told = (await other.client.get("/tracks/walk")).json()
        assert len(told["objects"]) == 1
        first = await propagated(one, "walk")
        assert await propagated(other, "walk") == first
        second = {**CLICK, "object": 2, "point_coords": [[10, 10]]}
        assert (await other.post("/tracks/walk/prompts", second)).status_code == 200
        changed = await propagated(one, "walk")  # knows the other's prompt
        assert changed != first
        assert await propagated(other, "walk") == changed
        assert (await other.client.delete("/tracks/walk")).status_code == 204
        assert error(await one.post("/tracks/walk/prompts", CLICK)) == (404, "track_not_found")
        assert (await one.client.get("/tracks")).json()["tracks"] == []
        assert (await begin_track(one, "walk")).status_code == 200


async def test_of_two_prompts_on_a_track_at_once_one_is_told_so(url: str, tmp_path: Path) -> None:
    async with two(url, tmp_path) as (one, other):
        for number in range(3):
            await one.embed(picture(shade=number), f"f{number}")
            await on_disk(one, f"f{number}")
        await begin_track(one, "walk")
        await other.client.get("/tracks/walk")
        one.segmenter.gate.clear()
        slow = asyncio.create_task(one.post("/tracks/walk/prompts", CLICK))
        await until(lambda: bool(one.segmenter.decoded))
        second = {**CLICK, "object": 2}
        assert (await other.post("/tracks/walk/prompts", second)).status_code == 200
        one.segmenter.gate.set()
        assert error(await slow) == (409, "track_busy")
        assert [each["object"] for each in (await one.client.get("/tracks/walk")).json()["objects"]] == [2]
        assert (await one.post("/tracks/walk/prompts", CLICK)).status_code == 200
        told = [(await each.client.get("/tracks/walk")).json()["objects"] for each in (one, other)]
        assert told[0] == told[1]
        assert len(told[0]) == 2


async def test_without_the_database_known_tracks_go_on_and_are_written_later(tmp_path: Path) -> None:
    with running_postgres() as server:
        async with two(server.new_database(), tmp_path, deadline_s=4) as (one, other):
            for number in range(3):
                await one.embed(picture(shade=number), f"f{number}")
                await on_disk(one, f"f{number}")
            await begin_track(one, "run")
            await other.client.get("/tracks/run")
            await other.service.store.tend()
            await begin_track(one, "walk")
            server.kill()
            assert (await one.post("/tracks/walk/prompts", CLICK)).status_code == 200
            for number, each in enumerate((one, other)):  # both are told that it counts
                assert (
                    await each.post("/tracks/run/prompts", {**CLICK, "object": number})
                ).status_code == 200
            began = time.monotonic()
            for reply in await asyncio.gather(
                begin_track(one, "new"),
                one.client.delete("/tracks/walk"),
                other.client.get("/tracks/walk"),
                other.client.get("/images/unheard"),
            ):
                assert error(reply) == (503, "names_unreachable")
            assert time.monotonic() - began > 1  # they waited for it, as their deadline allowed
            server.start()
            async with asyncio.timeout(LONG_S):
                while len((await other.client.get("/tracks/walk")).json().get("objects", ())) != 1:
                    await one.service.tracks.states.tend()
                    await asyncio.sleep(0.05)
                for each in (other, one, other):
                    await each.service.tracks.states.tend()
            for each in (one, other):
                told = (await each.client.get("/tracks/run")).json()["objects"]
                assert {it["object"] for it in told} == {0, 1}


async def test_ages_are_those_by_the_clock_of_the_database(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server whose own clock is ten minutes slow gives no names that the others take for expired."""
    own = time.time
    settings = Settings(workers=2, cache_dir=str(tmp_path), register_url=url, image_ttl_s=300)
    async with serving(settings) as slow, serving(settings) as other:
        monkeypatch.setattr(time, "time", lambda: own() - 600)
        assert (await slow.embed(picture(), "truck")).status_code == 200
        began = await slow.client.post("/tracks", json={"track_id": "t", "frames": ["truck"]})
        assert began.is_success, began.text
        monkeypatch.setattr(time, "time", own)
        for _ in range(2):
            assert (await other.click("truck")).status_code == 200
            for path in ("/images/truck", "/tracks/t"):
                assert abs((await other.client.get(path)).json()["created"] - own()) < 100
            await other.service.store.tend()
            await other.service.tracks.states.tend()


async def test_a_clock_that_is_set_meanwhile_changes_no_age(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(workers=2, cache_dir=str(tmp_path), register_url=url, image_ttl_s=300)
    async with serving(settings) as one:
        assert (await one.embed(picture(), "truck")).status_code == 200
        own = time.time
        monkeypatch.setattr(time, "time", lambda: own() + 600)
        monkeypatch.setattr("app.storage.shared_clock.time", time.time)
        await one.service.store.tend()
        assert (await one.click("truck")).status_code == 200


async def test_a_video_of_one_server_is_read_at_another(url: str, tmp_path: Path) -> None:
    async with two(url, tmp_path) as (one, other):
        added = await one.client.post(
            "/videos",
            content=clip(frames=3),
            params={"video_id": "walk"},
            headers={"Content-Type": "video/mp4"},
        )
        assert added.status_code == 200, added.text
        assert (await other.client.get("/videos/walk")).json()["frames"] == 3
        assert (await other.client.delete("/videos/walk")).is_success
        await one.service.videos.upkeep.tend()
        assert error(await one.client.get("/videos/walk")) == (404, "video_not_found")
        assert not list((tmp_path / "videos" / "files").iterdir())


async def test_a_video_that_was_deleted_elsewhere_a_moment_ago_can_be_sent_again(
    url: str, tmp_path: Path
) -> None:
    async def add(served: Served) -> httpx.Response:
        kind = {"Content-Type": "video/mp4"}
        return await served.client.post(
            "/videos", content=clip(frames=3), params={"video_id": "walk"}, headers=kind
        )

    async with two(url, tmp_path) as (one, other):
        assert (await add(one)).is_success
        assert (await other.client.delete("/videos/walk")).is_success
        assert (await add(one)).is_success
        await one.service.videos.upkeep.tend()
        assert (await one.client.get("/videos/walk")).is_success
        assert (await other.client.get("/videos/walk/frames/0")).is_success
