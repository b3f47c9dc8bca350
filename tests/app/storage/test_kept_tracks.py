"""Tracks as files in a folder that several servers may share: whole, or not there."""

import os
from pathlib import Path

import pytest

from app.storage.beside import Beside
from app.storage.kept_tracks import KeptTracks
from app.storage.register_file import Key

WALK = Key("", "walk")


async def save(tracks: KeptTracks, *, is_wanted: bool = True) -> None:
    """Write a track."""
    await tracks.save(WALK, {"prompts": []}, 0, is_wanted=lambda: is_wanted, waits=True)


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_a_server_that_starts_leaves_what_another_one_is_writing(tmp_path: Path) -> None:
    await save(KeptTracks(tmp_path))
    young, old = (Beside.written(tmp_path / f"{each}.json", b"{") for each in "ab")
    os.utime(old.beside, (1.0, 1.0))  # its server was killed
    [changes] = await KeptTracks(tmp_path).catch_up(waits=True)
    assert [row.key for row in changes.rows] == [WALK]
    assert young.beside.exists()
    assert not old.beside.exists()


async def test_nothing_partial_stays_of_a_track_that_is_unwanted_or_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: Beside) -> None:
        raise OSError(28, "No space left on device")

    tracks = KeptTracks(tmp_path)
    await save(tracks, is_wanted=False)
    assert caplog.text == ""
    monkeypatch.setattr(Beside, "appear", full)
    await save(tracks)
    assert "No space left on device" in caplog.text
    assert files_in(tmp_path) == []
