"""Stored images as clients see them: across restarts, deletions at any moment, and other servers."""

import asyncio
import hashlib
import shutil
import time
from pathlib import Path

import httpx
import pytest

from app.errors import ImageNotFound
from app.settings import Settings
from app.telemetry.stages import StageTimes
from tests.app.storage.kept_images import on_disk, saved, settings
from tests.fakes import FakeSegmenter, error, picture, serving, until


def files_of(folder: Path) -> list[str]:
    """Return the file names of all embeddings and uploads."""
    return sorted(
        path.name
        for kind in ("embeddings", "uploads")
        for path in (folder / kind).rglob("*")
        if path.is_file()
    )


async def test_a_restart_costs_nobody_an_upload(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as served:
        assert (await served.embed(picture(), "truck")).json()["cached"] is False
        await on_disk(served, "truck")
        before = (await served.client.get("/images/truck")).json()
        click = (await served.click("truck")).json()
        maps = (await served.client.get("/images/truck/embedding")).content
    async with serving(settings(tmp_path)) as served:
        after = (await served.client.get("/images/truck")).json()
        assert after["used"] >= before["used"]
        assert after | {"used": 0} == before | {"used": 0, "tiers": ["disk"]}
        assert (await served.click("truck")).json() == click
        assert (await served.client.get("/images/truck")).json()["tiers"] == ["device", "disk"]
        assert (await served.client.get("/images/truck/embedding")).content == maps
        assert (await served.embed(picture(), "car")).json()["cached"] is True
        assert served.segmenter.encoded == []
        listed = (await served.client.get("/images")).json()["images"]
        assert [image["image_id"] for image in listed] == ["car", "truck"]
        figures = (await served.client.get("/metrics")).text
        assert 'sam2_cache_hits_total{tier="disk"} 1.0' in figures


async def test_a_server_that_is_stopped_has_written_everything(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as served:
        for shade in range(8):
            await served.embed(picture(shade=shade), str(shade))
    assert len(files_of(tmp_path)) == 8


async def test_what_is_gone_is_said_at_once_although_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of the future is none that another server has given a moment ago."""
    monkeypatch.setattr("app.storage.arriving.WAIT_S", 60.0)
    async with serving(settings(tmp_path)) as served:
        await served.embed(picture(), "truck")
        await on_disk(served, "truck")
    shutil.rmtree(tmp_path / "embeddings")
    earlier = time.time() - 3600
    monkeypatch.setattr("app.storage.register.time", lambda: earlier)
    async with serving(settings(tmp_path)) as served, asyncio.timeout(30):
        assert error(await served.click("truck")) == (404, "image_not_found")


async def test_another_model_makes_its_own_embeddings_of_the_same_images(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as served:
        await served.embed(picture(), "truck")
    segmenter = FakeSegmenter()
    segmenter.fingerprint = "fedcba9876543210" * 4
    async with serving(settings(tmp_path), segmenter) as served:
        lost = await served.click("truck")
        assert error(lost) == (404, "image_not_found")
        assert "no longer available" in lost.json()["error"]["message"]
        assert "POST the picture" in lost.json()["error"]["message"]
        assert (await served.client.get("/images/truck")).json()["tiers"] == []
        assert (await served.embed(picture(), "truck")).json()["cached"] is False
        assert (await served.click("truck")).status_code == 200


async def test_a_kept_upload_is_embedded_again_once_and_silently(tmp_path: Path) -> None:
    async with serving(settings(tmp_path, keep_uploads=True)) as served:
        await served.embed(picture(), "truck")
    shutil.rmtree(tmp_path / "embeddings")
    async with serving(settings(tmp_path, keep_uploads=True)) as served:
        served.segmenter.gate.clear()
        clicks = [asyncio.create_task(served.click("truck", x=x)) for x in range(5)]
        await until(lambda: sum(e.callers for e in served.service._encodings._running.values()) == 5)
        served.segmenter.gate.set()
        assert [(await click).status_code for click in clicks] == [200] * 5
        assert len(served.segmenter.encoded) == 1
        await on_disk(served, "truck")
        assert (await served.click("truck")).status_code == 200
        assert len(served.segmenter.encoded) == 1


async def test_an_image_that_is_deleted_while_it_is_embedded_again_stays_deleted(tmp_path: Path) -> None:
    async with serving(settings(tmp_path, keep_uploads=True)) as served:
        await served.embed(picture(), "truck")
    shutil.rmtree(tmp_path / "embeddings")
    async with serving(settings(tmp_path, keep_uploads=True)) as served:
        served.segmenter.gate.clear()
        click = asyncio.create_task(served.click("truck"))
        await served.segmenter.wait_until_entered()
        await served.client.delete("/images/truck")
        assert error(await click) == (404, "image_not_found")
        served.segmenter.gate.set()
        await saved(served)
        assert files_of(tmp_path) == []
        assert served.service.store.tiers.in_memory() == set()


async def test_deleting_leaves_no_trace(tmp_path: Path) -> None:
    content = hashlib.sha256(picture()).hexdigest()
    async with serving(settings(tmp_path, keep_uploads=True)) as served:
        await served.embed(picture(), "truck")
        await served.embed(picture(), "car")
        await on_disk(served, "truck")
        await saved(served)
        assert files_of(tmp_path) == [content, f"{content}.safetensors"]
        await served.client.delete("/images/truck")
        assert len(files_of(tmp_path)) == 2  # the picture still has another name
        assert (await served.click("car")).status_code == 200
        for _ in range(2):
            assert (await served.client.delete("/images/car")).status_code == 204
        assert files_of(tmp_path) == []
        assert served.service.store.tiers.in_memory() == set()
        assert (await served.client.get("/images")).json()["images"] == []
    async with serving(settings(tmp_path, keep_uploads=True)) as served:
        assert error(await served.click("car")) == (404, "image_not_found")
        assert (await served.embed(picture(), "car")).json()["cached"] is False


@pytest.mark.parametrize("named", [True, False])
async def test_an_image_that_is_deleted_while_it_is_embedded_stays_deleted(
    named: bool, tmp_path: Path
) -> None:
    image_id = "truck" if named else hashlib.sha256(picture()).hexdigest()
    async with serving(settings(tmp_path, keep_uploads=True)) as served:
        served.segmenter.gate.clear()
        deleted = asyncio.create_task(served.embed(picture(), image_id))
        other = asyncio.create_task(served.embed(picture(), "car"))
        await served.segmenter.wait_until_entered()
        await until(lambda: sum(e.callers for e in served.service._encodings._running.values()) == 2)
        assert (await served.client.delete(f"/images/{image_id}")).status_code == 204
        refused = await deleted  # at once, not when the encoder is done
        assert error(refused) == (404, "image_not_found")
        assert "deleted while its picture was being embedded" in refused.json()["error"]["message"]
        served.segmenter.gate.set()
        assert (await other).status_code == 200
        assert (await served.click("car")).status_code == 200
        assert error(await served.click(image_id)) == (404, "image_not_found")
        assert (await served.embed(picture(), image_id)).json()["cached"] is True  # a later one works


async def test_an_image_that_is_deleted_before_it_is_written_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is deleted when the file is whole, just before it appears."""
    gate = asyncio.Event()
    async with serving(settings(tmp_path, keep_uploads=True)) as served:
        tiers = served.service.store.tiers
        while_named = tiers._while_named

        async def late(content: str, action: object) -> bool:
            await gate.wait()
            return await while_named(content, action)  # type: ignore[arg-type]

        monkeypatch.setattr(tiers, "_while_named", late)
        await served.embed(picture(), "truck")
        await served.client.delete("/images/truck")
        gate.set()
        await saved(served)
        assert files_of(tmp_path) == []


async def test_images_are_forgotten_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(settings(tmp_path, keep_uploads=True, image_ttl_s=60)) as served:
        await served.embed(picture(), "truck")
        await saved(served)
        assert (await served.click("truck")).status_code == 200
        later = time.time() + 61
        monkeypatch.setattr("app.storage.register.time", lambda: later)
        assert error(await served.click("truck")) == (404, "image_not_found")
        assert (await served.client.get("/images")).json()["images"] == []
        await served.service.store.tend()
        assert files_of(tmp_path) == []
        assert served.service.store.tiers.in_memory() == set()


async def test_tenants_see_nothing_of_each_other() -> None:
    async with serving() as served:
        service, times = served.service, StageTimes()
        for tenant, shade in (("ann", 1), ("bob", 2)):
            await service.embed(
                picture(shade=shade),
                tenant=tenant,
                image_id="truck",
                replace=False,
                times=times,
                share=tenant,
            )
        content = (await service.store.describe("truck", tenant="ann")).content
        for image_id in ("truck", content):
            with pytest.raises(ImageNotFound):
                await service.find(image_id, tenant="eve", times=times, share="eve")
            with pytest.raises(ImageNotFound):
                await service.store.describe(image_id, tenant="eve")
        with pytest.raises(ImageNotFound):
            await service.store.describe_all(tenant="eve", limit=9, after="truck")
        assert await service.store.describe_all(tenant="eve", limit=9, after=None) == []
        await service.delete("truck", tenant="eve")
        await service.delete("truck", tenant="bob")
        assert len(await service.store.describe_all(tenant="ann", limit=9, after=None)) == 1
        assert (
            float((await service.find("truck", tenant="ann", times=times, share="ann")).image_rows[0, 0])
            == 1.0
        )


async def test_two_servers_share_a_folder(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as one, serving(settings(tmp_path)) as other:
        await one.embed(picture(), "truck")
        await on_disk(one, "truck")
        assert (await other.click("truck")).status_code == 200
        assert other.segmenter.encoded == []
        assert error(await other.embed(picture(shade=9), "truck")) == (409, "image_id_conflict")
        await one.client.delete("/images/truck")
        assert error(await other.click("truck")) == (404, "image_not_found")
        await other.service.store.tend()
        assert other.service.store.tiers.in_memory() == set()
        assert files_of(tmp_path) == []
        for served, shade in ((one, 1), (other, 2)):
            await served.embed(picture(shade=shade), f"of {shade}".replace(" ", "-"))
        for served in (one, other):
            listed = (await served.client.get("/images")).json()["images"]
            assert [image["image_id"] for image in listed] == ["of-2", "of-1"]


async def test_what_leaves_memory_is_read_from_the_disk(tmp_path: Path) -> None:
    # 120 * 120 cells of 8 + 4 * 2 + 4 * 4 floats of 4 bytes: 1.8 MB
    segmenter = FakeSegmenter(embedding_side=120)
    async with serving(settings(tmp_path, device_cache_mib=2), segmenter) as served:
        for name in "abc":
            await served.embed(picture(shade=ord(name)), name)
        await saved(served)
        replies: list[httpx.Response] = [await served.click(name) for name in "abc"]
        assert [reply.status_code for reply in replies] == [200] * 3
        assert len(served.segmenter.encoded) == 3
        assert len(served.service.store.tiers.device) == 1


async def test_a_picture_that_nobody_named_does_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        content = hashlib.sha256(picture()).hexdigest()
        embedding = served.service.store.tiers.device.peek(content)
        assert embedding is not None
        served.service.store.put("x" * 64, embedding)  # its caller left before it gave a name
        await served.service.store.tend()
        assert served.service.store.tiers.holds("x" * 64)
        monkeypatch.setattr("app.storage.store.UNNAMED_S", -1.0)
        await served.service.store.tend()
        assert served.service.store.tiers.in_memory() == {content}


async def test_uploads_need_a_folder_to_be_kept_in() -> None:
    with pytest.raises(ValueError, match="SAM2_CACHE_DIR"):
        Settings(keep_uploads=True)


async def test_a_fault_while_tending_is_logged_and_tending_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.storage.upkeep.TEND_S", 0.001)
    tended = 0

    async def tend(_: object) -> None:
        nonlocal tended
        tended += 1
        raise ZeroDivisionError("while tending")

    monkeypatch.setattr("app.storage.store.EmbeddingStore.tend", tend)
    async with serving():
        await until(lambda: tended > 2)
    assert "while tending" in caplog.text
