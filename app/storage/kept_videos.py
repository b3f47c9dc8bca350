"""Video files by content, limited in bytes: in a folder or, without one, in memory. A file is whole or not there.

Several servers may share the folder. What touches the disk is slow and belongs in worker threads. Does not know
about the names of videos.
"""

import asyncio
import io
import os
import sqlite3
import threading
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import time, time_ns
from typing import BinaryIO

from app.storage.disk_trouble import DiskTrouble
from app.storage.embedding_files import Beside

_BESIDE = ".beside-"
_STALE_S = 3600.0
"""A partial file older than this is removed: its server was killed."""


class KeptVideos:
    """Video files, the least recently used of which are evicted beyond `capacity_bytes`. Any thread may call it.

    What a failing disk does not take is held in memory, within the same number of bytes.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        capacity_bytes: int,
        trouble: DiskTrouble | None,
        on_evict: Callable[[str], None],
    ) -> None:
        """Begin with what is in the folder. `on_evict` gets the content of each evicted file, on any thread."""
        self._folder = folder
        self._capacity_bytes = capacity_bytes
        self._trouble, self._on_evict = trouble, on_evict
        self._lock = threading.Lock()
        self._held: OrderedDict[str, bytes] = OrderedDict()  # least recently used first
        self._held_bytes = self._disk_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of all files, as of the last `trim` on the disk."""
        return self._held_bytes + self._disk_bytes

    def use(self, content: str) -> bool:
        """Count a use of a file, which may be open for long. Returns whether it is there."""
        with self._lock:
            if content in self._held:
                self._held.move_to_end(content)
                return True
        if self._folder is None:
            return False
        return _touch(self._folder / content)

    def open(self, content: str) -> BinaryIO | None:
        """Open the file of a content, which counts as a use; None if there is none."""
        with self._lock:
            if (data := self._held.get(content)) is not None:
                self._held.move_to_end(content)
                return io.BytesIO(data)
        if self._folder is None:
            return None
        try:
            file = (self._folder / content).open("rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report(f"{content} cannot be read", error)
            return None
        _touch(file.fileno())
        return file

    async def save(
        self,
        content: str,
        data: bytes,
        *,
        while_named: Callable[[str, Callable[[], None]], Awaitable[bool]],
        is_named: Callable[[str], bool],
    ) -> None:
        """Keep a file, unless there is one.

        `while_named(content, action)` runs an action if the content has a name, so that a deleted video does not
        appear afterwards. It may fail with the disk; `is_named(content)`, on the event loop, does not.
        """
        folder = self._folder
        if folder is None:
            await while_named(content, lambda: self._hold(content, data))
            return
        try:
            made = await asyncio.to_thread(_write_beside, folder / content, data)
            if made is not None:
                await _appear_or_discard(made, partial(while_named, content, made.appear))
        except (OSError, sqlite3.Error) as error:
            self._report("a video cannot be written", error)
            if is_named(content):
                self._hold(content, data)
            return
        if self._trouble is not None:
            self._trouble.over()
        await asyncio.to_thread(self.trim)

    def remove(self, content: str) -> None:
        """Remove a file. A failure is logged."""
        with self._lock:
            if (data := self._held.pop(content, None)) is not None:
                self._held_bytes -= len(data)
        if self._folder is not None:
            try:
                (self._folder / content).unlink(missing_ok=True)
            except OSError as error:
                self._report(f"the file of {content} cannot be removed", error)

    def trim(self) -> None:
        """Remove files beyond the capacity, and partial files of killed servers."""
        if self._folder is None:
            return
        found: list[tuple[float, int, Path]] = []
        try:
            for path in self._folder.iterdir():
                state = path.stat()
                if not path.name.startswith(_BESIDE):
                    found.append((state.st_mtime, state.st_size, path))
                elif time() - state.st_mtime > _STALE_S:
                    path.unlink(missing_ok=True)
            used = sum(size for _, size, _ in found)
            for _, size, path in sorted(found)[:-1]:  # the newest stays, even if it alone is larger
                if used <= self._capacity_bytes:
                    break
                path.unlink(missing_ok=True)
                self._on_evict(path.name)
                used -= size
            self._disk_bytes = used
        except FileNotFoundError:
            return  # nothing was written yet, or another server removed a file: the next run sees the rest
        except OSError as error:
            self._report("old videos cannot be removed", error)

    def _hold(self, content: str, data: bytes) -> None:
        with self._lock:
            self._held_bytes += len(data) - len(self._held.pop(content, b""))
            self._held[content] = data
            while self._held_bytes > self._capacity_bytes and len(self._held) > 1:
                oldest, evicted = self._held.popitem(last=False)
                self._held_bytes -= len(evicted)
                self._on_evict(oldest)

    def _report(self, what: str, error: Exception) -> None:
        if self._trouble is not None:
            self._trouble.report(what, error)


def _touch(file: Path | int) -> bool:
    """Make now the time of a file's last use. Returns whether it is there."""
    now = time_ns()
    try:
        os.utime(file, ns=(now, now))
    except FileNotFoundError:
        return False
    except OSError:  # owned by another user, say: then it is removed a little earlier
        pass
    return True


async def _appear_or_discard(made: Beside, appear: Callable[[], Awaitable[bool]]) -> None:
    """Let a file appear, and remove it if that says False or fails. Raises OSError and sqlite3.Error."""
    appeared = False
    try:
        appeared = await appear()
    finally:
        if not appeared:
            await asyncio.to_thread(made.discard)


def _write_beside(place: Path, data: bytes) -> Beside | None:
    """Write a file next to its final path; None if it is there already. Raises OSError."""
    if place.exists():
        return None
    # Videos are private: only this user may read them.
    for folder in (place.parent.parent, place.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Beside(place.with_name(f"{_BESIDE}{uuid.uuid4().hex}"), place)
    try:
        with made.beside.open("xb") as file:
            file.write(data)
    except BaseException:
        made.discard()
        raise
    return made
