"""Video files: what stays of one whose name goes, or whose disk fails, while it is written."""

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
