"""Servers with SAM2_CACHE_URL: one decodes what another embedded, what is deleted is gone, outages are survived."""

import asyncio
import hashlib
import os
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings
from app.storage import held_uploads
from app.storage import removals as removals_module
from tests.app.storage.kept_images import on_disk, saved
from tests.fakes import Served, error, picture, serving, until
from tests.object_store import ObjectStore
from tests.postgres import PostgresServer
from tests.small_videos import clip


def settings(url: str, folder: Path, **more: object) -> Settings:
    """Settings of a server with a bucket, and its names in a folder."""
    return Settings(workers=2, cache_url=url, cache_dir=str(folder), **more)


def kinds(store: ObjectStore, url: str) -> list[str]:
    """Return the kinds of a bucket's objects."""
    return [key.partition("/")[0] for key in store.keys(url)]


async def forgotten(served: Served) -> None:
    """Take everything out of memory."""
    for content in served.service.store.tiers.in_memory():
        served.service.store.tiers.drop(content)


def content_of(shade: int) -> str:
    """Return the content of a picture."""
    return hashlib.sha256(picture(shade=shade)).hexdigest()


def end_pause(served: Served) -> None:
    """Let the bucket be asked again at once."""
    assert served.service._bucket is not None
    served.service._bucket._paused_until = 0.0


async def test_what_one_server_embeds_another_decodes(object_store: ObjectStore, tmp_path: Path) -> None:
    url = object_store.new_bucket()
    async with (
        serving(settings(url, tmp_path, keep_uploads=True)) as one,
        serving(settings(url, tmp_path, keep_uploads=True)) as two,
    ):
        assert (await one.embed(picture(), "truck")).is_success
        await on_disk(one, "truck")
        clicked = await one.click("truck")
        assert (await two.click("truck")).json() == clicked.json()
        assert (await two.embed(picture(), "car")).json()["cached"] is True
        assert two.segmenter.encoded == []
        assert (await two.client.get("/images/truck")).json()["tiers"] == ["device", "disk"]
        assert kinds(object_store, url) == ["embeddings", "uploads"]
        assert not {"embeddings", "uploads"} & set(os.listdir(tmp_path))  # noqa: PTH208
        figures = (await one.client.get("/metrics")).text
        assert 'sam2_bucket_request_seconds_count{operation="write"} 2.0' in figures
        assert 'sam2_bucket_failures_total{operation="write"} 0.0' in figures
    async with serving(settings(url, tmp_path)) as three:  # after a restart
        assert (await three.click("truck")).json() == clicked.json()
        assert three.segmenter.encoded == []


async def test_an_evicted_embedding_is_made_again_from_its_upload(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    url = object_store.new_bucket()
    async with serving(settings(url, tmp_path, keep_uploads=True)) as served:
        await served.embed(picture(), "truck")
        await saved(served)
        [embedding] = [path for path in object_store.files(url) if path.suffix == ".safetensors"]
        embedding.unlink()
        await forgotten(served)
        assert (await served.click("truck")).is_success
        assert len(served.segmenter.encoded) == 2


async def test_an_upload_of_an_outage_is_kept_once_the_bucket_is_back(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    url = object_store.new_bucket()
    async with serving(settings(url, tmp_path, keep_uploads=True)) as served:
        object_store.kill()
        try:
            assert (await served.embed(picture(), "truck")).is_success
            assert (await served.embed(picture(shade=9), "deleted")).is_success
            tiers = served.service.store.tiers
            await until(lambda: len(tiers._unsaved) == 2)
            assert (await served.client.delete("/images/deleted")).is_success
        finally:
            object_store.start()
        end_pause(served)
        await served.service.store.tend()
        await until(lambda: sorted(kinds(object_store, url)) == ["embeddings", "uploads"])
        await until(lambda: content_of(0) not in tiers._uploads)
        assert content_of(9) not in tiers._uploads


async def test_no_more_uploads_wait_for_a_bucket_than_there_is_room_for(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_uploads, "MOST_BYTES", len(picture()) + 10)
    async with serving(settings(object_store.new_bucket(), tmp_path, keep_uploads=True)) as served:
        object_store.kill()
        try:
            tiers = served.service.store.tiers
            for shade in range(3):
                assert (await served.embed(picture(shade=shade), f"n{shade}")).is_success
                await until(lambda: len(tiers._unsaved) == shade + 1)  # noqa: B023  # before the next round
            assert [content_of(shade) in tiers._uploads for shade in range(3)] == [True, False, False]
        finally:
            object_store.start()


async def test_deleting_deletes(object_store: ObjectStore, tmp_path: Path) -> None:
    url = object_store.new_bucket()
    async with serving(settings(url, tmp_path, keep_uploads=True)) as served:
        for name in ("truck", "same"):
            await served.embed(picture(), name)
        await served.embed(picture(shade=9), "other")
        await saved(served)
        assert len(object_store.keys(url)) == 4
        assert (await served.client.delete("/images/truck")).is_success
        assert len(object_store.keys(url)) == 4  # it has another name
        assert (await served.client.delete("/images/same")).is_success
        assert len(object_store.keys(url)) == 2  # by the time of the reply
        assert (await served.embed(picture(), "same")).json()["cached"] is False
        await saved(served)
        assert len(object_store.keys(url)) == 4


async def test_what_another_server_names_before_it_is_removed_stays(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals_module, "WAIT_S", 0.0)  # a bucket that is slow
    url = object_store.new_bucket()
    async with (
        serving(settings(url, tmp_path, keep_uploads=True)) as one,
        serving(settings(url, tmp_path, keep_uploads=True)) as two,
    ):
        await one.embed(picture(), "truck")
        await on_disk(one, "truck")
        await saved(one)  # else what it writes is discarded again at once, as its name is gone
        removals = one.service.store._kept.removals
        assert removals is not None
        is_free = threading.Event()
        for _ in range(removals_module.REMOVERS):
            removals._threads.submit(is_free.wait)
        assert (await one.client.delete("/images/truck")).is_success
        assert (await two.embed(picture(), "car")).is_success  # what is in the bucket is found
        await saved(two)
        is_free.set()
        await until(lambda: not removals._queued)
        await forgotten(two)
        assert kinds(object_store, url) == ["embeddings", "uploads"]
        assert (await two.click("car")).is_success
        assert two.segmenter.encoded == []


async def test_what_expires_leaves_the_bucket(object_store: ObjectStore, tmp_path: Path) -> None:
    url = object_store.new_bucket()
    async with serving(settings(url, tmp_path, image_ttl_s=0.3, keep_uploads=True)) as served:
        await served.embed(picture(), "truck")
        await saved(served)
        await asyncio.sleep(0.3)
        await served.service.store.tend()
        await until(lambda: object_store.keys(url) == [])


async def test_a_tenant_does_not_get_what_another_has_embedded(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    url = object_store.new_bucket()
    async with serving(
        settings(url, tmp_path, api_keys="ann:the-key-of-ann-0,bob:the-key-of-bob-0")
    ) as served:
        for key in ("the-key-of-ann-0", "the-key-of-bob-0"):
            reply = await served.client.post(
                "/embed",
                content=picture(),
                headers={"Content-Type": "image/png", "Authorization": f"Bearer {key}"},
            )
            assert reply.json()["cached"] is False
        await saved(served)
        assert len(object_store.keys(url)) == 2


async def test_a_store_that_is_killed_and_comes_back_costs_no_click_in_memory_and_no_restart(
    object_store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = object_store.new_bucket()
    async with serving(settings(url, tmp_path)) as served:
        for shade, name in enumerate(("held", "evicted", "deleted")):
            await served.embed(picture(shade=shade), name)
        await saved(served)
        evicted, deleted = (content_of(shade) for shade in (1, 2))
        object_store.kill()
        served.service.store.tiers.drop(evicted)
        assert (await served.click("held")).is_success
        assert error(await served.click("evicted")) == (404, "image_not_found")  # clients embed it again
        assert (await served.embed(picture(shade=5), "new")).is_success
        assert (await served.click("new")).is_success
        assert (await served.client.delete("/images/deleted")).is_success
        assert (await served.client.get("/images")).json()["images"][0]["tiers"] == ["device"]
        await saved(served)
        said = [line for line in caplog.messages if "SAM2_CACHE_URL" in line]
        assert len(said) == 1
        assert f"{object_store.url} cannot be reached" in said[0]
        object_store.start()
        end_pause(served)
        assert (await served.click("evicted")).is_success
        assert len(served.segmenter.encoded) == 4
        await served.service.store.tend()
        await on_disk(served, "new")
        await until(lambda: not any(deleted in key for key in object_store.keys(url)))
        await until(lambda: "works again" in caplog.text)


async def test_a_bucket_that_is_removed_is_said_in_words(
    object_store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = object_store.new_bucket()
    async with serving(settings(url, tmp_path)) as served:
        object_store.remove_bucket(url)
        assert (await served.embed(picture(), "truck")).is_success
        assert (await served.click("truck")).is_success
        await saved(served)
        assert "there is no bucket 'bucket-" in caplog.text


def test_a_bucket_without_a_place_for_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="names of what is in the bucket are kept in SAM2_CACHE_DIR"):
        Settings(cache_url="s3://bucket")
    assert Settings(cache_url="s3://bucket/a/b/", cache_dir=str(tmp_path)).cache_url == "s3://bucket/a/b"
    shared = Settings(cache_url="s3://bucket", register_url="postgresql://db/sam2", keep_uploads=True)
    assert shared.keeps_files
    assert shared.cache_path is None


@pytest.mark.parametrize(
    "url",
    [
        "bucket",
        "http://host/bucket",
        "s3://",
        "s3://key:secret@bucket",
        "s3://b",
        "s3://bucket/a//b",
        "s3://Bucket",
    ],
)
def test_what_is_no_bucket_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="must be s3:// with a bucket's name"):
        Settings(cache_url=url, cache_dir=str(tmp_path))


async def test_servers_that_share_a_bucket_and_a_database_need_no_folder(
    object_store: ObjectStore, postgres: PostgresServer
) -> None:
    url = object_store.new_bucket()
    settings = Settings(workers=2, cache_url=url, register_url=postgres.new_database(), keep_uploads=True)
    async with serving(settings) as one, serving(settings) as two:
        assert (await one.embed(picture(), "truck")).is_success
        assert (await two.click("truck")).json() == (
            await one.click("truck")
        ).json()  # it waits for the bucket
        assert two.segmenter.encoded == []
        await saved(one)
        added = await one.client.post(
            "/videos",
            content=clip(frames=3),
            params={"video_id": "walk"},
            headers={"Content-Type": "video/mp4"},
        )
        assert added.is_success, added.text
        assert (await two.client.get("/videos/walk/frames/1")).is_success
        assert sorted(kinds(object_store, url)) == ["embeddings", "uploads", "videos"]
        assert (await two.client.delete("/images/truck")).is_success
        assert (await two.client.delete("/videos/walk")).is_success
        assert kinds(object_store, url) == []  # by the time of the replies
        assert (await one.embed(picture(), "truck")).is_success  # before it has heard of that
        await one.service.store.tend()
        await saved(one)
        await until(lambda: sorted(kinds(object_store, url)) == ["embeddings", "uploads"])
    async with serving(settings) as three:  # after a restart
        assert (await three.click("truck")).is_success
        assert three.segmenter.encoded == []
