"""Tracks that two servers share: what one hears of the other, and that one server does not meet itself."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.codecs.prompts import PromptRequest
from app.service.track_state import TrackState
from app.service.track_states import TrackStates
from app.service.track_values import Frames, TrackPromptRequest
from app.storage.kept_tracks import KeptTracks
from app.storage.sharing import Sharing
from app.storage.staged_file import StagedFile
from app.track_errors import TrackBusy
from tests.postgres import PostgresServer


@asynccontextmanager
async def states_in(url: str) -> AsyncIterator[TrackStates]:
    """The tracks as one server knows them."""
    sharing = Sharing(url)
    await sharing.open()
    try:
        yield TrackStates(sharing.tracks(), most=9, ttl_s=0, on_forget=lambda _: None)
    finally:
        await sharing.close()


def states_on(folder: Path) -> TrackStates:
    """The tracks as one server knows them that keeps them in a folder."""
    return TrackStates(KeptTracks(folder), most=9, ttl_s=0, on_forget=lambda _: None)


async def known_after_a_restart(folder: Path) -> dict[str, list[TrackPromptRequest]]:
    """What the next server reads in a folder: the prompts of each track."""
    known = await states_on(folder).newest(tenant="", limit=9, after=None)
    return {each.track_id: each.history for each in known}


def new(name: str = "walk") -> TrackState:
    """A track without prompts."""
    now = time.time()
    return TrackState("", name, Frames(("f0",), None), 1, 40, 60, "kept", created=now, used=now)


def click(on: int, at: float = 1.0) -> TrackPromptRequest:
    """A prompt for an object."""
    return TrackPromptRequest(0, on, PromptRequest([[at, 2.0]], [1]))


async def test_what_another_server_did_during_work_that_writes_nothing_is_heard_of_afterwards(
    postgres: PostgresServer,
) -> None:
    url = postgres.new_database()
    async with states_in(url) as ours, states_in(url) as theirs:
        await ours.add(new())
        followed = await theirs.find("walk", tenant="")
        own = await ours.find("walk", tenant="")
        async with followed.lock:  # it is propagated, which changes no prompt
            own.history.append(click(1))
            await ours.save(own)
            assert (await theirs.find("walk", tenant="")).history == []
        assert (await theirs.find("walk", tenant="")).history == own.history
        async with followed.lock:
            own.history.append(click(2))
            await ours.save(own)
            await theirs.find("walk", tenant="")
            await ours.forget(own)
        assert await theirs.newest(tenant="", limit=9, after=None) == []
        assert await theirs.newest(tenant="", limit=9, after=None) == []


async def test_two_writes_of_one_server_at_once_are_no_conflict(postgres: PostgresServer) -> None:
    """The maintenance writes what an outage held up, or a write goes on whose request has gone away."""
    async with states_in(postgres.new_database()) as ours:
        state = new()
        await ours.add(state)
        state.history.append(click(1))
        first = asyncio.create_task(ours.save(state))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        state.history.append(click(2))
        await asyncio.gather(first, ours.save(state))
        assert len((await ours.find("walk", tenant="")).history) == 2


async def test_many_tracks_are_read_in_pages(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All in one query they may take longer than it may, after which names would count as unreachable too."""
    monkeypatch.setattr("app.storage.shared_tracks._ROWS_AT_ONCE", 2)
    url, ids = postgres.new_database(), [f"t{i}" for i in range(5)]
    async with states_in(url) as ours, states_in(url) as theirs:
        for each in ids:
            await ours.add(new(each))
        assert {each.track_id for each in await theirs.newest(tenant="", limit=9, after=None)} == set(ids)
        changed = [await ours.find(each, tenant="") for each in ids]
        for state in changed[1:]:
            state.history.append(click(1))
            await ours.save(state)
        await ours.forget(changed[0])
        found = await theirs.newest(tenant="", limit=9, after=None)
        assert {each.track_id for each in found} == set(ids[1:])
        assert all(len(each.history) == 1 for each in found)


async def test_a_track_whose_caller_leaves_before_it_is_written_does_not_take_the_name(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with states_in(postgres.new_database()) as ours:
        entered, leave, save = asyncio.Event(), asyncio.Event(), ours._keeper.save

        async def slow(*given: Any, **more: Any) -> int:
            entered.set()
            await leave.wait()
            return await save(*given, **more)

        monkeypatch.setattr(ours._keeper, "save", slow)
        leaving = asyncio.create_task(ours.add(new()))
        await entered.wait()
        leaving.cancel()
        await asyncio.wait([leaving])
        leave.set()
        await ours.add(new())
        assert len(await ours.newest(tenant="", limit=9, after=None)) == 1


async def test_what_a_failing_disk_did_not_take_or_give_up_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("app.storage.kept_tracks._RETRY_S", 0.0)
    folder = tmp_path / "tracks"
    ours, gone, early, late = states_on(folder), new("gone"), new("early"), new("late")
    await ours.add(gone)
    await ours.add(early)
    with monkeypatch.context() as broken:
        broken.setattr(StagedFile, "written", fail)
        broken.setattr(Path, "unlink", fail)
        await ours.forget(gone)
        early.history.append(click(1))
        await ours.save(early)
        await ours.add(late)
        await ours.tend()
        assert await known_after_a_restart(folder) == {"gone": [], "early": []}
    await ours.tend()
    assert await known_after_a_restart(folder) == {"early": [click(1)], "late": []}


@pytest.mark.parametrize("who", ["the maintenance", "a request"])
async def test_what_two_servers_were_told_without_the_disk_counts_at_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Each had answered its client. The prompts of the one that wrote second were dropped without a word."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    folder = tmp_path / "tracks"
    ours, theirs, walk = states_on(folder), states_on(folder), new()
    walk.history = [click(1), click(2)]
    await ours.add(walk)
    same = await theirs.find("walk", tenant="")
    with monkeypatch.context() as broken:
        broken.setattr(StagedFile, "written", fail)
        walk.history = [click(1), click(2, at=5), click(3)]  # in place of what object 2 had; object 3 is new
        await ours.save(walk)
        for at in (8, 9):
            same.history = [*same.history, click(1, at)]
            await theirs.save(same)
    await ours.tend()
    if who == "a request":  # is told to come again: its own prompt does not count, those before it do
        same.history.append(click(7))
        with pytest.raises(TrackBusy):
            await theirs.save(same)
    for each in (theirs, ours, theirs, ours):
        await each.tend()
    known = (await known_after_a_restart(folder))["walk"]
    assert known == same.history == walk.history
    assert known == [click(1), click(2, at=5), click(3), click(1, 8), click(1, 9)]


async def test_the_maintenance_changes_no_track_that_is_worked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt that was given meanwhile took the place of all that another server had written."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    folder = tmp_path / "tracks"
    ours, theirs, walk = states_on(folder), states_on(folder), new()
    await ours.add(walk)
    same = await theirs.find("walk", tenant="")
    with monkeypatch.context() as broken:
        broken.setattr(StagedFile, "written", fail)
        same.history = [click(1)]
        await theirs.save(same)
    walk.history = [click(2)]
    await ours.save(walk)
    async with same.lock:
        history = [*same.history, click(3)]
        await theirs.tend()
        same.history = history
        with pytest.raises(TrackBusy):
            await theirs.save(same)
    for each in (theirs, ours):
        await each.tend()
    assert same.history == walk.history == [click(2), click(1)]
    assert await known_after_a_restart(folder) == {"walk": walk.history}


@pytest.mark.parametrize("who", ["the maintenance", "a request"])
async def test_the_tracks_of_a_folder_that_is_removed_come_back(tmp_path: Path, who: str) -> None:
    """Whoever writes first: with one track there, the others must not look as if a server had removed them."""
    folder = tmp_path / "tracks"
    ours, theirs, walk, run = states_on(folder), states_on(folder), new("walk"), new("run")
    await ours.add(walk)
    await ours.add(run)
    await theirs.tend()
    shutil.rmtree(folder)
    if who == "a request":
        walk.history.append(click(1))
        await ours.save(walk)
    for each in (ours, theirs, ours, theirs):
        await each.tend()
    known = await known_after_a_restart(folder)
    assert known == {"walk": walk.history, "run": []}
    for each in (ours, theirs):
        assert {it.track_id: it.history for it in await each.newest(tenant="", limit=9, after=None)} == known
    await theirs.forget(await theirs.find("run", tenant=""))
    await ours.tend()
    assert (await known_after_a_restart(folder)).keys() == {"walk"}
