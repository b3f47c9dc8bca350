"""Servers that share names and rates through PostgreSQL, as their clients see it."""

import asyncio
import shutil
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from app.storage.written import Written
from model.types import Embedding
from tests.app.storage.kept_images import on_disk
from tests.fakes import LONG_S, Served, error, picture, serving, until
from tests.postgres import running_postgres
from tests.small_videos import clip


@asynccontextmanager
async def two(
    url: str, folder: Path, *, pictures_per_minute: float = 0, deadline_s: float = 30
) -> AsyncIterator[tuple[Served, Served]]:
    """Two servers that share a folder and a database."""
    settings = Settings(
        workers=2,
        cache_dir=str(folder),
        register_url=url,
        rate_pictures_per_minute=pictures_per_minute,
        deadline_s=deadline_s,
    )
    async with serving(settings) as one, serving(settings) as other:
        yield one, other


async def names(served: Served) -> list[str]:
    return [each["image_id"] for each in (await served.client.get("/images")).json()["images"]]


async def test_a_picture_of_one_server_is_clicked_on_at_another(url: str, tmp_path: Path) -> None:
    async with two(url, tmp_path) as (one, other):
        assert (await one.embed(picture(), "truck")).status_code == 200
        assert (await other.client.get("/images/truck")).status_code == 200  # at once
        await on_disk(other, "truck")
        assert (await other.click("truck")).json() == (await one.click("truck")).json()
        assert other.segmenter.encoded == []
        assert error(await other.embed(picture(shade=9), "truck")) == (409, "image_id_conflict")
        assert other.segmenter.encoded == []  # told before the work
        assert (await other.client.delete("/images/truck")).is_success
        await one.service.store.tend()
        assert error(await one.click("truck")) == (404, "image_not_found")
        assert not list((tmp_path / "embeddings").rglob("*.safetensors"))
        assert (await one.embed(picture(shade=9), "truck")).status_code == 200  # the name is free


async def test_what_one_server_has_answered_is_in_the_next_list_of_another(url: str, tmp_path: Path) -> None:
    """A balancer sends lists to the servers in turn."""
    async with two(url, tmp_path) as (one, other):
        for number in range(3):
            assert (await one.embed(picture(shade=number), f"n{number}")).status_code == 200
            assert await names(other) == [f"n{each}" for each in range(number, -1, -1)]
        assert (await one.client.delete("/images/n1")).is_success
        assert await names(other) == ["n2", "n0"]
        assert (await one.client.delete("/images/n0")).is_success
        assert error(await other.client.get("/images/n0")) == (404, "image_not_found")
        reply = await one.client.post(
            "/embed", files={"image": picture(90, 50)}, data={"image_id": "n2", "replace": "true"}
        )
        assert reply.status_code == 200
        assert (await other.client.get("/images/n2")).json()["width"] == reply.json()["width"]
        assert (
            await one.client.post(
                "/videos",
                params={"video_id": "v"},
                content=clip(frames=3),
                headers={"Content-Type": "video/mp4"},
            )
        ).is_success
        assert [each["video_id"] for each in (await other.client.get("/videos")).json()["videos"]] == ["v"]
        assert (await one.client.delete("/videos/v")).is_success
        assert (await other.client.get("/videos")).json()["videos"] == []


async def test_a_new_picture_at_two_servers_at_once_gets_one_owner(url: str, tmp_path: Path) -> None:
    async with two(url, tmp_path) as (one, other):
        replies = await asyncio.gather(one.embed(picture(), "truck"), other.embed(picture(shade=9), "truck"))
        assert sorted(reply.status_code for reply in replies) == [200, 409]


async def test_pictures_a_minute_are_those_at_all_servers(url: str, tmp_path: Path) -> None:
    async with two(url, tmp_path, pictures_per_minute=3) as (one, other):
        for shade in range(3):
            served = (one, other)[shade % 2]
            assert (await served.embed(picture(shade=shade))).status_code == 200
        refused = await one.embed(picture(shade=3))
        assert error(refused) == (429, "rate_limited")
        assert 15 <= int(refused.headers["Retry-After"]) <= 20
        assert error(await other.embed(picture(shade=4))) == (429, "rate_limited")
        assert (await other.embed(picture())).status_code == 200  # a known one costs nothing


async def test_a_picture_that_many_send_at_once_is_counted_once(url: str, tmp_path: Path) -> None:
    async with two(url, tmp_path, pictures_per_minute=2) as (one, _):
        replies = await asyncio.gather(*(one.embed(picture()) for _ in range(6)))
        assert [reply.status_code for reply in replies] == [200] * 6
        assert len(one.segmenter.encoded) == 1
        assert (await one.embed(picture(shade=1))).status_code == 200
        replies = await asyncio.gather(*(one.embed(picture(shade=2)) for _ in range(3)))
        assert [error(reply) for reply in replies] == [(429, "rate_limited")] * 3
        assert one.service._encodings._waiting_images.used == 0


async def test_without_the_database_known_pictures_are_served(tmp_path: Path) -> None:
    with running_postgres() as server:
        async with two(server.new_database(), tmp_path, pictures_per_minute=9, deadline_s=2) as (one, other):
            for served, name in ((one, "truck"), (other, "car")):
                await served.embed(picture(), name)
            await other.client.get("/images/truck")
            server.kill()
            assert (await one.click("truck")).status_code == 200
            assert (await other.click("truck")).status_code == 200
            assert (await one.embed(picture(), "truck")).status_code == 200
            refused, unknown, deleted = await asyncio.gather(
                one.embed(picture(shade=1), "new"),
                one.click("unheard"),
                other.client.delete("/images/car"),
            )
            for reply in (refused, unknown, deleted):
                assert error(reply) == (503, "names_unreachable")
                assert reply.headers["Retry-After"] == "5"
                assert "SAM2_REGISTER_URL" in reply.text
            assert one.segmenter.encoded == [[(40, 60)]]  # the refused one cost no time of the device
            ready = await one.client.get("/readyz")
            assert (ready.status_code, ready.json()) == (200, {"status": "ready", "names": "unreachable"})
            assert "sam2_names_reachable 0.0" in (await one.client.get("/metrics")).text
            waiting = asyncio.create_task(one.embed(picture(shade=2), "late"))
            await asyncio.sleep(0)
            server.start()
            assert (await waiting).status_code == 200
            assert (await one.embed(picture(shade=1), "new")).status_code == 200
            await one.service.store.tend()
            assert (await one.client.get("/readyz")).json() == {"status": "ready"}
            assert "sam2_names_reachable 1.0" in (await one.client.get("/metrics")).text
            await until(lambda: not one.service.store.tiers._tasks)
            await other.service.store.tend()
            assert await names(other) == await names(one)


CLICK = {"frame": 0, "object": 1, "point_coords": [[30, 20]], "point_labels": [1]}


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
        async with two(server.new_database(), tmp_path, deadline_s=2) as (one, other):
            for number in range(3):
                await one.embed(picture(shade=number), f"f{number}")
            await begin_track(one, "walk")
            server.kill()
            assert (await one.post("/tracks/walk/prompts", CLICK)).status_code == 200
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


async def test_a_picture_that_was_deleted_elsewhere_a_moment_ago_can_be_sent_again(
    url: str, tmp_path: Path
) -> None:
    async with two(url, tmp_path) as (one, other):
        assert (await one.embed(picture(), "truck")).status_code == 200
        await on_disk(other, "truck")
        assert (await other.client.delete("/images/truck")).is_success
        assert (await one.embed(picture(), "truck")).status_code == 200  # it has not looked since
        await one.service.store.tend()
        assert (await one.click("truck")).status_code == 200
        assert (await other.client.get("/images/truck")).status_code == 200


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


async def test_a_click_at_another_server_waits_for_the_embedding(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is known at once, the embedding up to a second later."""
    async with two(url, tmp_path) as (one, other):
        files, begin = one.service.store.tiers.files, threading.Event()
        assert files is not None
        write = files.write_beside

        def late(content: str, embedding: Embedding) -> Written | None:
            assert begin.wait(LONG_S)
            return write(content, embedding)

        monkeypatch.setattr(files, "write_beside", late)
        assert (await one.embed(picture(), "truck")).status_code == 200
        looked = list[str]()
        theirs = other.service.store.tiers.files
        assert theirs is not None
        read = theirs.read

        def look(content: str) -> Embedding | None:
            looked.append(content)
            return read(content)

        monkeypatch.setattr(theirs, "read", look)
        clicking = asyncio.create_task(other.click("truck"))
        await until(lambda: bool(looked))
        begin.set()
        assert (await clicking).status_code == 200
        assert other.segmenter.encoded == []


async def test_a_picture_of_another_server_that_never_arrives_is_not_found(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.storage.arriving.WAIT_S", 0.2)
    async with two(url, tmp_path / "one") as (one, _), two(url, tmp_path / "two") as (other, _):
        await one.embed(picture(), "truck")
        assert error(await other.click("truck")) == (404, "image_not_found")


async def test_embeddings_that_wait_for_the_database_are_no_trouble_of_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_postgres() as server:
        async with two(server.new_database(), tmp_path) as (one, _):
            await one.embed(picture(), "truck")
            await on_disk(one, "truck")
            shutil.rmtree(tmp_path / "embeddings")
            tiers = one.service.store.tiers
            server.kill()  # before anything is written
            tiers.save_all()
            await tiers.tend()
            assert tiers._unsaved
            assert "SAM2_CACHE_DIR" not in caplog.text
            assert "PostgreSQL" in caplog.text
            server.start()
            async with asyncio.timeout(LONG_S):
                while tiers._unsaved:
                    await tiers.tend()
                    await asyncio.sleep(0.05)
            await on_disk(one, "truck")
