"""A folder that may not be written ends the start; what returns from host or disk finds room, or gets 503."""

import asyncio
import errno
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from app.settings import Settings
from app.storage.opening import CacheDirError, check_folder
from model.errors import NoFreeSlot
from model.types import Embedding
from tests.fakes import FakeSegmenter, error, picture, serving


class CrowdedSegmenter(FakeSegmenter):
    """Has room for a returning embedding after `full_for` others have left."""

    def __init__(self, *, full_for: int) -> None:
        super().__init__()
        self.full_for = full_for

    def adopt(self, embedding: Embedding) -> Embedding:
        """Fail `full_for` times, then adopt."""
        if self.full_for:
            self.full_for -= 1
            raise NoFreeSlot("all places are held")
        return embedding


@pytest.mark.parametrize(("full_for", "answer"), [(1, 200), (2, 200), (9, 503)])
async def test_the_coldest_leave_for_what_comes_back(tmp_path: Path, full_for: int, answer: int) -> None:
    segmenter = CrowdedSegmenter(full_for=full_for)
    async with serving(Settings(cache_dir=str(tmp_path), workers=2), segmenter) as served:
        for shade, name in enumerate(["truck", "one", "other"]):
            await served.embed(picture(shade=shade), name)
        store = served.service.store
        content = (await store.look_up("truck", tenant="")).content
        while "disk" not in (await store.describe("truck", tenant="")).tiers:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        store.tiers.drop(content)
        reply = await served.click("truck")
        assert reply.status_code == answer
        if answer == 503:
            assert error(reply) == (503, "overloaded")
            assert (await served.click("truck")).status_code == 503
            segmenter.full_for = 0
            assert (await served.click("truck")).status_code == 200


@pytest.mark.parametrize("place", ["", "register.sqlite", "embeddings", "videos/files"])
def test_a_folder_that_may_not_be_written_ends_the_start(place: str, tmp_path: Path) -> None:
    """The server said so in a line of its log, and everything was gone after a restart."""
    folder = tmp_path / "cache"
    check_folder(Settings(cache_dir=str(folder)))
    assert folder.stat().st_mode & 0o777 == 0o700
    if place == "register.sqlite":
        (folder / place).mkdir()
    elif place:
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).touch()
    else:
        folder.rmdir()
        folder.touch()
    with pytest.raises(
        CacheDirError, match=rf"SAM2_CACHE_DIR={folder}: {folder / place} cannot be written: "
    ):
        check_folder(Settings(cache_dir=str(folder)))
    check_folder(Settings())


@pytest.mark.parametrize(
    ("number", "ends"), [(errno.EROFS, True), (errno.EACCES, True), (errno.ENOSPC, False)]
)
def test_a_disk_that_is_full_ends_no_start(
    number: int, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("app.storage.opening.TemporaryFile", fail)
    expected = pytest.raises(CacheDirError, match=os.strerror(number)) if ends else nullcontext()
    with expected:
        check_folder(Settings(cache_dir=str(tmp_path)))
