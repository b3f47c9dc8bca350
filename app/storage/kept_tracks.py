"""Tracks on the disk: a small JSON file each, by which its prompts survive a restart and reach other processes.

A file is whole or not there. Does not know what is in it.
"""

import asyncio
import hashlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from app.storage.disk_trouble import DiskTrouble
from app.storage.register_file import Key
from app.storage.staged_file import StagedFile, is_stale
from model.checkpoints.file_locks import NoLocks, lock

log = logging.getLogger(__name__)

_SUFFIX = ".json"
_LOCK = "lock"
_PATIENCE_S = 2.0
_RETRY_S = 5.0
"""Between two times that a file is removed in vain: each may take _PATIENCE_S, and requests wait meanwhile."""
_TICK_NS = 100 * 10**6
"""More than the clock of a file system stands still."""


@dataclass(frozen=True, slots=True)
class TrackRow:
    """A track as it is kept."""

    key: Key
    content: dict[str, Any]
    number: int
    """Of the change that wrote it. A later change has a greater one."""


@dataclass(frozen=True, slots=True)
class TrackChanges:
    """What other servers did, or an earlier one."""

    rows: Sequence[TrackRow]
    removed: Mapping[Key, int]
    """Each with the number of the change."""
    all_until: int | None = None
    """Not None: these are all tracks that there were after this change."""
    is_lost: bool = False
    """Whether what was kept is gone, without any server's doing: the tracks in memory are to be written again."""


class ChangedElsewhere(Exception):
    """Another server has changed the track; None: removed it."""

    def __init__(self, row: TrackRow | None) -> None:
        super().__init__()
        self.row = row


class NotKept(Exception):
    """The disk fails, which has been reported. Who has the track writes it again later."""


class _Seen(NamedTuple):
    """A file as it was last seen."""

    mark: tuple[int, int, int]
    key: Key | None
    """None for a damaged file."""
    number: int


class TrackKeeper(Protocol):
    """Keeps the prompts of tracks: in files of this machine, or in a database of several (shared_tracks.py)."""

    def now(self) -> float:
        """Return the time by which tracks have their ages: that of all servers."""

    async def catch_up(self, *, waits: bool) -> list[TrackChanges]:
        """Return what other servers did since the last call; the first time, all tracks."""

    async def save(
        self, key: Key, content: dict[str, Any], number: int, *, is_wanted: Callable[[], bool], waits: bool
    ) -> int:
        """Write a track, unless it is not wanted any more by then. Returns its new number. Raises NotKept."""

    async def remove(self, key: Key) -> None:
        """Remove a track, if there is one."""


class KeptTracks:
    """A TrackKeeper: files in a folder, by tenant and name, which processes of one machine may share.

    A file has the number of the change that wrote it. Without a folder, nothing is kept. `on_failure` is called for
    each operation on the disk that failed, on any thread.
    """

    def __init__(self, folder: Path | None, *, on_failure: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._trouble = DiskTrouble(folder, on_failure=on_failure) if folder is not None else None
        self._looking = asyncio.Lock()
        self._found = deque[TrackChanges]()  # survives a caller who goes away
        self._seen: dict[Path, _Seen] = {}
        self._seen_folder = -1
        """Its modification time, which any change of a name changes; -1 before the first look."""
        self._newest = 0
        """The greatest number so far, above which the next one is, although the clock may be set back."""
        self._lost = set[Path]()  # files that went with their folder, and are to be written again
        self._left = set[Path]()  # files of removed tracks, which the failing disk still has
        self._retry_at = 0.0

    def now(self) -> float:
        """Return the time of this machine."""
        return time.time()

    async def catch_up(self, *, waits: bool) -> list[TrackChanges]:  # noqa: ARG002  # files need no wait
        """Return what other processes did since the last call; the first time, all tracks."""
        async with self._looking:
            await asyncio.to_thread(self._look)
            return [self._found.popleft() for _ in range(len(self._found))]

    async def save(
        self,
        key: Key,
        content: dict[str, Any],
        number: int,
        *,
        is_wanted: Callable[[], bool],
        waits: bool,  # noqa: ARG002
    ) -> int:
        """Write a file, or replace it, unless it is not wanted any more by then. Returns its new number.

        Raises ChangedElsewhere, and NotKept for a failure of the disk, which is logged.
        """
        return await asyncio.to_thread(partial(self._save, key, content, number, is_wanted=is_wanted))

    async def remove(self, key: Key) -> None:
        """Remove a file, if there is one. A failure is logged, and `catch_up` tries again."""
        if self._folder is not None:
            await asyncio.to_thread(self._remove, _place(self._folder, key))

    def _save(self, key: Key, content: dict[str, Any], number: int, *, is_wanted: Callable[[], bool]) -> int:
        if self._folder is None or self._trouble is None:
            return number
        place = _place(self._folder, key)
        try:
            with self._lock:
                self._notice_loss(self._folder)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = max(time.time_ns(), number + 1, self._newest + 1)
            given = {"tenant": key.tenant, "name": key.image_id, "change": new}
            made = StagedFile.written(place, json.dumps(given | content).encode())
            try:
                with self._alone(self._folder):
                    if not is_wanted():
                        return number
                    there = self._number(place)
                    is_ours = place in self._left or (there == 0 and place in self._lost)
                    if there != number and not is_ours:
                        raise ChangedElsewhere(_read(place))
                    made.appear()
                    self._left.discard(place)
                    self._lost.discard(place)
                    self._seen[place] = _Seen(_mark(place.stat()), key, new)
                    self._newest = max(self._newest, new)
            finally:
                made.discard()  # does nothing if it has appeared
        except OSError as error:
            self._trouble.report("a track cannot be written", error)
            raise NotKept from error
        self._trouble.over()
        return new

    def _remove(self, place: Path) -> bool:
        """Remove a file, if it is there. Returns whether it is gone."""
        if self._folder is None or self._trouble is None:
            return True
        try:
            if place.exists():
                with self._alone(self._folder):
                    place.unlink(missing_ok=True)
                    self._seen.pop(place, None)
        except OSError as error:
            self._trouble.report("a track cannot be removed", error)
            self._left.add(place)
            self._retry_at = time.monotonic() + _RETRY_S
            return False
        self._left.discard(place)
        self._lost.discard(place)
        return True

    def _look(self) -> None:
        """Find what has changed."""
        if self._folder is None or self._trouble is None:
            return
        if self._left and time.monotonic() >= self._retry_at:
            all(map(self._remove, list(self._left)))  # until one fails
        with self._lock:
            try:
                self._notice_loss(self._folder)
                folder = self._folder.stat().st_mtime_ns
                if folder == self._seen_folder:
                    return
                with os.scandir(self._folder) as entries:
                    marks = {Path(each.path): _mark(each.stat()) for each in entries}
            except FileNotFoundError:
                return  # nothing was written yet, or a file is gone: the next look finds the rest
            except OSError as error:
                self._trouble.report("tracks cannot be read", error)
                return
            if self._seen_folder == -1:
                _remove_stale(marks)
            if (changes := self._changes(marks)).rows or changes.removed:
                self._found.append(changes)
            # Another change at the same tick of the clock would not be seen.
            self._seen_folder = folder if time.time_ns() - folder > _TICK_NS else 0

    def _notice_loss(self, folder: Path) -> None:
        """See whether somebody removed the folder: the lock in it, no server removes. Raises OSError."""
        if not self._seen or (folder / _LOCK).exists():
            return
        log.error("%s was removed; creating it again with the known tracks.", folder)
        self._lost.update(self._seen)
        self._seen.clear()
        self._found.append(TrackChanges([], {}, is_lost=True))

    def _changes(self, marks: Mapping[Path, tuple[int, int, int]]) -> TrackChanges:
        rows = list[TrackRow]()
        for place, mark in marks.items():
            known = self._seen.get(place)
            is_new = known is None or known.mark != mark
            if is_new and place.suffix == _SUFFIX and place not in self._left:
                row = _read(place)
                self._seen[place] = _Seen(mark, row.key if row else None, row.number if row else 0)
                rows += [row] if row is not None else []
                self._newest = max(self._newest, self._seen[place].number)
        gone = [self._seen.pop(place) for place in self._seen.keys() - marks.keys()]
        return TrackChanges(rows, {each.key: each.number for each in gone if each.key is not None})

    def _number(self, place: Path) -> int:
        """Return the number of what is there now; 0 if nothing is. Raises OSError."""
        try:
            mark = _mark(place.stat())
        except FileNotFoundError:
            return 0
        known = self._seen.get(place)
        if known is not None and known.mark == mark:
            return known.number
        row = _read(place)
        return row.number if row is not None else 0

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """Keep other processes from writing. Raises OSError if one does so for long: it may be stopped."""
        with self._lock, (folder / _LOCK).open("a") as file:
            end = time.monotonic() + _PATIENCE_S
            with suppress(NoLocks):  # then two servers that share the folder may lose a prompt to each other
                while not lock(file):
                    if time.monotonic() > end:
                        raise OSError(f"another process holds {folder / _LOCK}")
                    time.sleep(0.005)
            yield


def _mark(stat: os.stat_result) -> tuple[int, int, int]:
    """What differs when a file has been replaced."""
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _read(place: Path) -> TrackRow | None:
    """Read a file. A damaged one is left out, with a line in the log."""
    try:
        content = json.loads(place.read_text())
        key = Key(content["tenant"], content["name"])
        if place != _place(place.parent, key):
            raise ValueError("it is not named by what it holds")
        return TrackRow(
            key, content, int(content.get("change", 1))
        )  # one of an earlier version has no number
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        log.warning("The track in %s cannot be read: %s", place, error)
        return None


def _remove_stale(marks: Mapping[Path, tuple[int, int, int]]) -> None:
    """Remove half-written files, whose servers were killed."""
    for place, (_, modified_ns, _) in marks.items():
        if place.suffix != _SUFFIX and place.name != _LOCK and is_stale(modified_ns / 1e9):
            with suppress(OSError):
                place.unlink()


def _place(folder: Path, key: Key) -> Path:
    digest = hashlib.sha256(f"{key.tenant}\0{key.image_id}".encode()).hexdigest()
    return folder / f"{digest}{_SUFFIX}"
