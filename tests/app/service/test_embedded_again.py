"""A picture that is being named, or embedded again, while others do something with it or with its other names."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.errors import VideoNotFound
from app.settings import Settings
from app.storage.register_file import ImageName
from tests.app.service.test_videos import embed, upload
from tests.fakes import LONG_S, Served, picture, serving, until


@asynccontextmanager
async def without_embedding(tmp_path: Path) -> AsyncIterator[Served]:
    """A server with the upload of "truck", but without its embedding."""
    settings = Settings(workers=2, cache_dir=str(tmp_path), keep_uploads=True)
    async with serving(settings) as before:
        await before.embed(picture(), "truck")
    shutil.rmtree(tmp_path / "embeddings")
    async with serving(settings) as after:
        yield after


async def test_a_click_is_answered_though_its_id_is_given_to_another_picture_meanwhile(
    tmp_path: Path,
) -> None:
    """It got 409, as if it had been an upload."""
    async with without_embedding(tmp_path) as served:
        await served.embed(picture(50, 30), "car")
        await served.segmenter.wait_until_entered()
        served.segmenter.gate.clear()
        click = asyncio.create_task(served.click("truck"))
        await served.segmenter.wait_until_entered()
        named = {"image_id": "truck", "replace": "true"}
        replaced = await served.client.post("/embed", files={"image": picture(50, 30)}, data=named)
        assert replaced.status_code == 200
        served.segmenter.gate.set()
        assert (await click).status_code == 200
        assert (await served.client.get("/images/truck")).json()["width"] == 50
        assert len(served.service.store.tiers.in_memory()) == 1


async def test_it_is_not_made_twice_if_it_was_made_while_its_upload_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with without_embedding(tmp_path) as served:
        store = served.service.store
        find_upload, waits = store.find_upload, [True]

        async def slow(content: str) -> bytes | None:
            found = await find_upload(content)
            if waits:
                waits.clear()
                assert (await served.click("truck")).status_code == 200
            return found

        monkeypatch.setattr(store, "find_upload", slow)
        assert (await served.click("truck")).status_code == 200
        assert len(served.segmenter.encoded) == 1


async def test_what_is_dropped_with_another_name_while_its_own_is_given_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where names are in a database, one that is about to be given there does not count yet."""
    async with serving() as served:
        store = served.service.store
        add = store._register.add

        async def slow(name: ImageName, *, replace: bool) -> frozenset[str]:
            store._drop_unnamed(name.content)  # as for an upload of the same picture that got 409
            return await add(name, replace=replace)

        monkeypatch.setattr(store._register, "add", slow)
        assert (await served.embed(picture(), "truck")).status_code == 200
        assert (await served.click("truck")).status_code == 200


async def test_a_frame_that_is_read_of_another_video_of_its_file_outlives_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two who want it share one reading. The second was told that its own video is gone."""
    async with serving() as served:
        await upload(served)
        await upload(served, name="slow", fps=5)
        videos, entered, gate = served.service.videos, threading.Event(), threading.Event()
        use = videos._files.use

        def slow(content: str) -> bool:
            entered.set()
            assert gate.wait(LONG_S)
            return use(content)

        monkeypatch.setattr(videos._files, "use", slow)
        first = asyncio.create_task(embed(videos, 4))
        await until(entered.is_set)
        second = asyncio.create_task(embed(videos, 2, "slow"))
        await until(lambda: [each.callers for each in served.service._encodings._running.values()] == [2])
        await videos.delete("clip", tenant="", share="me")
        gate.set()
        with pytest.raises(VideoNotFound):
            await first
        assert await second
