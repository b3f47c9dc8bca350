"""Files of tracks in a folder that several processes share, each with a keeper of its own."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from app.storage import kept_tracks
from app.storage.kept_tracks import ChangedElsewhere, KeptTracks, NotKept, TrackRow
from app.storage.register_file import Key

WALK, RUN = Key("ann", "walk"), Key("", "run")


async def save(keeper: KeptTracks, key: Key, what: Any, number: int = 0, *, is_wanted: bool = True) -> int:
    return await keeper.save(key, {"what": what}, number, is_wanted=lambda: is_wanted, waits=True)


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


def modified_ns(folder: Path) -> int:
    return folder.stat().st_mtime_ns


async def news(keeper: KeptTracks) -> tuple[dict[Key, Any], set[Key]]:
    """Return what a keeper hears: what is in the tracks that others wrote, and those that they removed."""
    found = await keeper.catch_up(waits=True)
    rows = {row.key: row.content["what"] for each in found for row in each.rows}
    return rows, {key for each in found for key in each.removed}


async def test_another_process_hears_of_each_change_once_and_nobody_of_its_own(tmp_path: Path) -> None:
    ours, theirs = KeptTracks(tmp_path / "tracks"), KeptTracks(tmp_path / "tracks")
    assert await news(theirs) == ({}, set())
    number = await save(ours, WALK, 1)
    assert await news(ours) == ({}, set())
    assert await news(theirs) == ({WALK: 1}, set())
    assert await news(theirs) == ({}, set())
    later = await save(ours, WALK, 2, number)
    assert later > number
    await save(ours, RUN, 1)
    assert await news(theirs) == ({WALK: 2, RUN: 1}, set())
    await ours.remove(WALK)
    assert await news(ours) == ({}, set())
    assert await news(theirs) == ({}, {WALK})
    assert (
        await save(ours, WALK, 3) > later
    )  # so that it is newer than what others may remember of the first one
    assert await news(theirs) == ({WALK: 3}, set())


async def test_who_has_not_seen_a_change_cannot_write_over_it(tmp_path: Path) -> None:
    ours, theirs = KeptTracks(tmp_path), KeptTracks(tmp_path)
    first = await save(ours, WALK, 1)
    with pytest.raises(ChangedElsewhere) as taken:
        await save(theirs, WALK, 2)
    assert (taken.value.row.key, taken.value.row.number) == (WALK, first)  # type: ignore[union-attr]
    second = await save(theirs, WALK, 2, first)
    with pytest.raises(ChangedElsewhere) as changed:
        await save(ours, WALK, 3, first)
    assert isinstance(changed.value.row, TrackRow)
    assert (changed.value.row.content["what"], changed.value.row.number) == (2, second)
    await theirs.remove(WALK)
    with pytest.raises(ChangedElsewhere) as removed:
        await save(ours, WALK, 3, second)
    assert removed.value.row is None
    assert await save(ours, WALK, 4, is_wanted=False) == 0
    assert names(tmp_path) == ["lock"]


async def test_a_folder_that_is_lost_is_made_again(tmp_path: Path) -> None:
    ours = KeptTracks(tmp_path / "tracks")
    number = await save(ours, WALK, 1)
    for each in (tmp_path / "tracks").iterdir():
        each.unlink()
    (tmp_path / "tracks").rmdir()
    assert await news(ours) == ({}, set())
    assert await save(ours, WALK, 2, number) > number
    assert await news(KeptTracks(tmp_path / "tracks")) == ({WALK: 2}, set())


async def test_what_another_process_writes_is_left_to_it_and_what_a_killed_one_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".half").write_text("{")
    await news(KeptTracks(tmp_path))
    assert (tmp_path / ".half").exists()
    monkeypatch.setattr("app.storage.staged_file._STALE_S", -1.0)
    await news(KeptTracks(tmp_path))
    assert not (tmp_path / ".half").exists()


async def test_a_file_of_an_earlier_version_is_read_and_written(tmp_path: Path) -> None:
    ours = KeptTracks(tmp_path)
    await save(ours, WALK, 1)
    (place,) = (tmp_path / name for name in names(tmp_path) if name.endswith(".json"))
    content = json.loads(place.read_text())
    del content["change"]
    place.write_text(json.dumps(content))
    theirs = KeptTracks(tmp_path)
    [changes] = await theirs.catch_up(waits=True)
    [row] = changes.rows
    assert await save(theirs, WALK, 2, row.number) > row.number


async def test_a_process_that_stands_still_with_the_lock_is_a_trouble_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kept_tracks, "_PATIENCE_S", 0.02)
    ours, theirs = KeptTracks(tmp_path), KeptTracks(tmp_path)
    with theirs._alone(tmp_path):
        with pytest.raises(NotKept):
            await save(ours, WALK, 1)
        assert "another process holds" in caplog.text
    assert await save(ours, WALK, 1) > 0


async def test_a_change_at_the_same_tick_of_the_clock_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = KeptTracks(tmp_path), KeptTracks(tmp_path)
    await save(ours, WALK, 1)
    before = modified_ns(tmp_path)
    assert await news(theirs) == ({WALK: 1}, set())
    await save(ours, RUN, 1)
    os.utime(tmp_path, ns=(before, before))
    assert await news(theirs) == ({RUN: 1}, set())
    old = time.time_ns() - 10**9
    os.utime(tmp_path, ns=(old, old))
    await news(theirs)
    looked = []
    monkeypatch.setattr(kept_tracks.os, "scandir", lambda folder: looked.append(folder))
    await asyncio.gather(*(news(theirs) for _ in range(3)))
    assert looked == []


async def test_a_track_begun_anew_counts_although_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who knows the first one goes on showing it: its number would be the greater one."""
    ours = KeptTracks(tmp_path)
    first = await save(ours, WALK, 1)
    await save(KeptTracks(tmp_path), RUN, 1)
    await ours.remove(WALK)
    monkeypatch.setattr("app.storage.kept_tracks.time.time_ns", lambda: first - 3600 * 10**9)
    assert await save(ours, WALK, 2) > first
    another = KeptTracks(tmp_path)  # a server that was started since
    [changes] = await another.catch_up(waits=True)
    await another.remove(WALK)
    assert await save(another, WALK, 3) > max(row.number for row in changes.rows)
