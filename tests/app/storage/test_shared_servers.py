"""Servers that share names and rates of pictures through PostgreSQL, as their clients see it."""

import asyncio
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.scheduling.deadlines import within
from app.storage.written import Written
from model.types import Embedding
from tests.app.storage.kept_images import on_disk
from tests.app.storage.two_servers import names, two
from tests.fakes import LONG_S, error, picture, until
from tests.postgres import running_postgres
from tests.small_videos import clip


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


async def test_a_folder_that_is_deleted_while_names_are_elsewhere_comes_back(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Names are not lost with it, so nobody noticed: what was in memory was not written again."""
    folder = tmp_path / "cache"
    async with two(url, folder) as (one, _):
        for image_id in ("early", "late"):
            await one.embed(picture(shade=len(image_id)), image_id)
            await on_disk(one, image_id)
        for comes_between in (False, True):
            shutil.rmtree(folder)
            if comes_between:  # whose write makes the folder anew before the maintenance looks
                await one.embed(picture(shade=99), "between")
                await on_disk(one, "between")
            await one.service.store.tend()
            for image_id in ("early", "late"):
                await on_disk(one, image_id)
        assert "was removed" in caplog.text
        await one.service.store.tend()
        assert not one.service.store.tiers._unsaved


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
            await served.embed(picture(shade=shade), f"p{shade}")
            await on_disk(served, f"p{shade}")
        refused = await one.embed(picture(shade=3))
        assert error(refused) == (429, "rate_limited")
        assert 15 <= int(refused.headers["Retry-After"]) <= 20
        assert error(await other.embed(picture(shade=4))) == (429, "rate_limited")
        assert (await other.embed(picture())).status_code == 200  # a known one costs nothing
        with psycopg.connect(url, autocommit=True) as database:  # as if its clock had been set back
            database.execute("UPDATE sam2_rates SET full_at = full_at + 3600")
        for shade in range(5, 8):
            assert (await one.embed(picture(shade=shade))).status_code == 200
        assert error(await other.embed(picture(shade=9))) == (429, "rate_limited")


async def test_a_picture_that_many_send_at_once_is_counted_once(url: str, tmp_path: Path) -> None:
    async with two(url, tmp_path, pictures_per_minute=2) as (one, _):
        replies = await asyncio.gather(*(one.embed(picture()) for _ in range(6)))
        assert [reply.status_code for reply in replies] == [200] * 6
        assert [reply.json()["cached"] for reply in replies].count(False) == 1
        assert len(one.segmenter.encoded) == 1
        assert (await one.embed(picture(shade=1))).status_code == 200
        replies = await asyncio.gather(*(one.embed(picture(shade=2)) for _ in range(3)))
        assert [error(reply) for reply in replies] == [(429, "rate_limited")] * 3
        assert one.service._encodings._waiting_images.used == 0


async def test_without_the_database_known_pictures_are_served(tmp_path: Path) -> None:
    with running_postgres() as server:
        async with two(server.new_database(), tmp_path, pictures_per_minute=9, deadline_s=4) as (one, other):
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
            one.service._deadline = partial(within, LONG_S)  # PostgreSQL may take long to start
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


async def test_without_the_database_what_another_server_could_not_write_is_not_said_to_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is told so uploads again, or tells a user that it is gone."""
    monkeypatch.setattr("app.storage.postgres.EITHER_SIDE_S", LONG_S)  # however slow this machine is
    with running_postgres() as server:
        async with two(server.new_database(), tmp_path, deadline_s=8) as (one, other):
            assert (await one.embed(picture(shade=9), "early")).status_code == 200
            await on_disk(one, "early")
            goes_on = threading.Event()
            for place in (one.service.store.tiers.files, one.service.videos._files._place):
                monkeypatch.setattr(place, "write_beside", _after(goes_on, place.write_beside))  # type: ignore[union-attr]
            assert (await one.embed(picture(), "truck")).status_code == 200
            kind = {"Content-Type": "video/mp4"}
            walk = one.client.post(
                "/videos", content=clip(frames=3), params={"video_id": "walk"}, headers=kind
            )
            sending = asyncio.create_task(walk)
            await until(lambda: one.service.videos._register.find("walk", tenant="") is not None)
            assert await names(other) == ["truck", "early"]
            assert (await other.client.get("/videos")).json()["videos"][0]["video_id"] == "walk"
            server.kill()
            goes_on.set()
            assert (await sending).status_code == 200
            for reply in await asyncio.gather(
                other.click("truck"), other.client.get("/videos/walk"), other.client.get("/tracks?after=run")
            ):
                assert error(reply) == (503, "names_unreachable")
                assert reply.headers["Retry-After"] == "5"
            for each in (one, other):
                assert (await each.click("early")).status_code == 200
            assert (await one.click("truck")).status_code == 200
            server.start()
            async with asyncio.timeout(LONG_S):
                while (reply := await other.click("truck")).status_code == 503:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert reply.status_code == 200
            await one.service.videos.upkeep.tend()
            assert (await other.client.get("/videos/walk")).status_code == 200


def _after(event: threading.Event, write: Callable[..., Written | None]) -> Callable[..., Written | None]:
    def late(*given: Any) -> Written | None:
        assert event.wait(LONG_S)
        return write(*given)

    return late


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
            await until(lambda: bool(tiers._unsaved))  # the maintenance may be trying it at this moment
            assert "SAM2_CACHE_DIR" not in caplog.text
            assert "PostgreSQL" in caplog.text
            server.start()
            async with asyncio.timeout(LONG_S):
                while tiers._unsaved:
                    await tiers.tend()
                    await asyncio.sleep(0.05)
            await on_disk(one, "truck")
