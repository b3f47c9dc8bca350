"""Video files: what stays of one whose name goes, or whose disk fails, while it is written."""

import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.storage.disk_trouble import DiskTrouble
from app.storage.kept_videos import KeptVideos
from app.storage.video_folder import VideoFolder

A = "a" * 64


def kept(folder: Path) -> KeptVideos:
    """Files in a folder."""
    return KeptVideos(
        VideoFolder(folder / "files"),
        capacity_bytes=1000,
        trouble=DiskTrouble(folder),
        on_evict=lambda _: None,
    )


async def broken(content: str, action: Callable[[], None]) -> bool:
    """A register that the disk fails."""
    raise sqlite3.OperationalError("disk I/O error")


async def full(content: str, action: Callable[[], None]) -> bool:
    """A folder that the disk fails at the last step."""
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("failing", [broken, full])
@pytest.mark.parametrize("named", [True, False])
async def test_what_a_failing_disk_does_not_take_is_held_as_long_as_it_has_a_name(
    named: bool, failing: Callable[[str, Callable[[], None]], Awaitable[bool]], tmp_path: Path
) -> None:
    files = kept(tmp_path)
    await files.save(A, b"video", while_named=failing, is_named=lambda _: named)
    assert files.use(A) == named
    assert files.used_bytes == (5 if named else 0)
    assert list((tmp_path / "files").iterdir()) == []  # nor does a partial file take space on the disk


async def test_a_file_that_cannot_be_read_is_written_anew_or_held(tmp_path: Path) -> None:
    """Or an upload is accepted, and every frame asks for the upload. Here a folder is in its place."""
    files = kept(tmp_path)
    place = tmp_path / "files" / A
    place.mkdir(parents=True)
    assert files.open(A) is None
    for _ in range(2):
        await files.save(A, b"video", while_named=named, is_named=lambda _: True)
        await files.write_held(named)
        assert files.use(A)
        assert (found := files.open(A)) is not None
        assert found.read() == b"video"
    place.rmdir()
    await files.write_held(named)
    assert place.read_bytes() == b"video"


def test_what_cannot_be_removed_keeps_no_other_file_from_going(tmp_path: Path) -> None:
    files = kept(tmp_path)
    (tmp_path / "files" / "stuck").mkdir(parents=True)
    os.utime(tmp_path / "files" / "stuck", (1.0, 1.0))
    for number, letter in enumerate("abc"):
        place = tmp_path / "files" / (letter * 64)
        place.write_bytes(bytes(600))
        os.utime(place, (2.0 + number, 2.0 + number))
    files.trim()
    assert not (tmp_path / "files" / ("a" * 64)).exists()


async def named(content: str, action: Callable[[], None]) -> bool:
    """A register in which everything has a name."""
    action()
    return True
