"""Tracks on the disk: a small JSON file each, by which its prompts survive a restart.

A file is whole or not there. Everything here is slow and belongs in worker threads. Does not know what is in
a file.
"""

import asyncio
import hashlib
import json
import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from app.storage.beside import Beside
from app.storage.disk_trouble import DiskTrouble
from app.storage.register_file import Key

log = logging.getLogger(__name__)

_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class TrackRow:
    """A track as it is kept."""

    key: Key
    content: dict[str, Any]
    number: int
    """Of the change that wrote it; 0 in a file, which no other server changes."""


@dataclass(frozen=True, slots=True)
class TrackChanges:
    """What other servers did, or an earlier one."""

    rows: Sequence[TrackRow]
    removed: Mapping[Key, int]
    """Each with the number of the change."""
    all_until: int | None = None
    """Not None: these are all tracks that there were after this change."""


class ChangedElsewhere(Exception):
    """Another server has changed the track; None: removed it."""

    def __init__(self, row: TrackRow | None) -> None:
        super().__init__()
        self.row = row


class TrackKeeper(Protocol):
    """Keeps the prompts of tracks: in files of this server, or in a database of several (shared_tracks.py)."""

    async def catch_up(self, *, waits: bool) -> list[TrackChanges]:
        """Return what other servers did since the last call; the first time, all tracks."""

    async def save(
        self, key: Key, content: dict[str, Any], number: int, *, is_wanted: Callable[[], bool], waits: bool
    ) -> int:
        """Write a track, unless it is not wanted any more by then. Returns its new number."""

    async def remove(self, key: Key) -> None:
        """Remove a track, if there is one."""


class KeptTracks:
    """A TrackKeeper: files in a folder, by tenant and name. Without a folder, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._trouble = DiskTrouble(folder) if folder is not None else None
        self._is_read = False

    async def catch_up(self, *, waits: bool) -> list[TrackChanges]:  # noqa: ARG002  # files need no wait
        """Return the tracks of earlier servers the first time, then nothing."""
        if self._is_read:
            return []
        self._is_read = True
        found = await asyncio.to_thread(self._load)
        return [TrackChanges([TrackRow(Key(each["tenant"], each["name"]), each, 0) for each in found], {})]

    async def save(
        self,
        key: Key,
        content: dict[str, Any],
        number: int,
        *,
        is_wanted: Callable[[], bool],
        waits: bool,  # noqa: ARG002
    ) -> int:
        """Write a file, or replace it, unless it is not wanted any more by then. A failure is logged."""
        await asyncio.to_thread(partial(self._save, *key, content, is_wanted=is_wanted))
        return number

    async def remove(self, key: Key) -> None:
        """Remove a file, if there is one. A failure is logged."""
        await asyncio.to_thread(self._remove, *key)

    def _save(
        self, tenant: str, name: str, content: dict[str, Any], *, is_wanted: Callable[[], bool]
    ) -> None:
        if self._folder is None or self._trouble is None:
            return
        place = self._place(self._folder, tenant, name)
        made = Beside(place.with_name(f".{uuid.uuid4().hex}"), place)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.beside.write_text(json.dumps({"tenant": tenant, "name": name, **content}))
            with self._lock:
                if is_wanted():
                    made.appear()
                else:
                    made.discard()
        except OSError as error:
            self._trouble.report("a track cannot be written", error)
            with suppress(OSError):
                made.discard()
        else:
            self._trouble.over()

    def _remove(self, tenant: str, name: str) -> None:
        if self._folder is None or self._trouble is None:
            return
        try:
            with self._lock:
                self._place(self._folder, tenant, name).unlink(missing_ok=True)
        except OSError as error:
            self._trouble.report("a track cannot be removed", error)

    def _load(self) -> list[dict[str, Any]]:
        """Read all files. Damaged ones are left out, with a line in the log."""
        if self._folder is None or not self._folder.is_dir():
            return []
        found: list[dict[str, Any]] = []
        for path in sorted(self._folder.iterdir()):
            if path.suffix != _SUFFIX:
                with suppress(OSError):
                    path.unlink()  # half-written: its server was killed
                continue
            try:
                content = json.loads(path.read_text())
                if path != self._place(self._folder, content["tenant"], content["name"]):
                    raise ValueError("it is not named by what it holds")
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("The track in %s cannot be read: %s", path, error)
                continue
            found.append(content)
        return found

    @staticmethod
    def _place(folder: Path, tenant: str, name: str) -> Path:
        digest = hashlib.sha256(f"{tenant}\0{name}".encode()).hexdigest()
        return folder / f"{digest}{_SUFFIX}"
