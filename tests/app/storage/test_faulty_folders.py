"""A folder that is full, read-only, deleted or has a torn file: requests still work, and the files come back."""

import io
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from app.storage.embedding_files import EmbeddingFiles
from app.storage.staged_file import StagedFile
from tests.app.storage.kept_images import on_disk, saved, settings
from tests.fakes import Served, error, picture, serving


async def failures(served: Served) -> float:
    """Operations on the disk that failed, by the metrics."""
    found = re.search(
        r"^sam2_disk_failures_total (\S+)$", (await served.client.get("/metrics")).text, re.MULTILINE
    )
    assert found
    return float(found[1])


async def test_a_full_disk_stops_nobody_and_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with serving(settings(tmp_path)) as served:
        monkeypatch.setattr(EmbeddingFiles, "write_beside", full)
        for shade in range(3):
            assert (await served.embed(picture(shade=shade), str(shade))).status_code == 200
            assert (await served.click(str(shade))).status_code == 200
        await saved(served)
        assert caplog.text.count("No space left on device") == 1
        assert await failures(served) >= 3
        assert str(tmp_path) in caplog.text
        assert (await served.client.get("/images/0")).json()["tiers"] == ["device"]
        monkeypatch.undo()
        await served.service.store.tend()
        assert (await served.client.get("/images/0")).json()["tiers"] == ["device", "disk"]
        assert "works again" in caplog.text


async def test_a_folder_that_is_read_only_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("app.storage.register_file.Path.mkdir", read_only)
    monkeypatch.setattr(StagedFile, "appear", read_only)
    folder = tmp_path / "cache"
    async with serving(settings(folder)) as served:
        assert (await served.embed(picture(), "truck")).status_code == 200
        assert (await served.click("truck")).status_code == 200
        assert (await served.client.delete("/images/truck")).status_code == 204
        assert error(await served.click("truck")) == (404, "image_not_found")

        await served.embed(picture(), "frame")
        await saved(served)
        before = await failures(served)
        assert before > 0
        await served.post("/tracks", {"frames": ["frame"], "track_id": "walk"})
        counted = await failures(served)
        assert counted > before
        film = io.BytesIO()
        Image.new("RGB", (64, 48)).save(film, "GIF")
        reply = await served.client.post("/videos", files={"video": ("film.gif", film.getvalue())})
        assert reply.status_code == 200
        assert await failures(served) > counted
    assert "Read-only file system" in caplog.text


async def test_a_folder_that_is_deleted_stops_nobody_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    async with serving(settings(folder)) as served:
        await served.embed(picture(shade=1), "before")
        await on_disk(served, "before")
        shutil.rmtree(folder)
        assert (await served.click("before")).status_code == 200
        assert (await served.embed(picture(shade=2), "after")).status_code == 200
        await served.service.store.tend()
        await saved(served)
        assert "was removed" in caplog.text
    async with serving(settings(folder)) as served:
        for image_id in ("before", "after"):
            assert (await served.click(image_id)).status_code == 200


async def test_a_torn_file_is_asked_for_again_and_never_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings(tmp_path)) as served:
        await served.embed(picture(), "truck")
    [path] = [path for path in (tmp_path / "embeddings").rglob("*.safetensors")]  # noqa: C416
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    async with serving(settings(tmp_path)) as served:
        assert error(await served.click("truck")) == (404, "image_not_found")
        assert "checksum" in caplog.text
        assert (await served.embed(picture(), "truck")).json()["cached"] is False
        assert (await served.click("truck")).status_code == 200
