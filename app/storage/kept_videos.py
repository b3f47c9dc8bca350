"""Video files by content, limited in bytes: in a folder, in a bucket or, without either, in memory.

What touches the disk or the network is slow and belongs in worker threads. Does not know about the names of videos.
"""

import asyncio
import io
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from app.storage.disk_trouble import DiskTrouble
from app.storage.tiers import CLOSE_S
from app.storage.video_folder import VideoFolder
from app.storage.video_objects import VideoObjects
from app.storage.written import NamesAway, WhileNamed, appeared

if TYPE_CHECKING:  # it imports boto3
    from app.storage.bucket import Bucket


class KeptVideos:
    """Video files, of which the oldest are evicted beyond `capacity_bytes`. Any thread may call it.

    What a failing disk or bucket does not take is held in memory, within the same number of bytes.
    """

    def __init__(
        self,
        place: VideoFolder | VideoObjects | None,
        *,
        capacity_bytes: int,
        trouble: DiskTrouble | None,
        on_evict: Callable[[str], None],
    ) -> None:
        """Begin with what is in the place. `on_evict` gets the content of each evicted file, on any thread."""
        self._place = place
        self._removals = place.removals if isinstance(place, VideoObjects) else None
        self._capacity_bytes = capacity_bytes
        self._trouble, self._on_evict = trouble, on_evict
        self._lock = threading.Lock()
        self._held: OrderedDict[str, bytes] = OrderedDict()  # least recently used first
        self._held_bytes = self._placed_bytes = 0

    @classmethod
    def in_place(
        cls,
        bucket: "Bucket | None",
        folder: Path | None,
        *,
        capacity_bytes: int,
        trouble: DiskTrouble | None,
        on_evict: Callable[[str], None],
    ) -> Self:
        """Return those of a bucket or, without one, of the folder `files` in a folder, if there is one."""
        place: VideoFolder | VideoObjects | None = None
        if bucket is not None:
            trouble, place = bucket.trouble, VideoObjects(bucket)
        elif folder is not None:
            place = VideoFolder(folder / "files")
        return cls(place, capacity_bytes=capacity_bytes, trouble=trouble, on_evict=on_evict)

    @property
    def used_bytes(self) -> int:
        """Bytes of all files, as of the last `trim` on the disk or in the bucket."""
        return self._held_bytes + self._placed_bytes

    def use(self, content: str) -> bool:
        """Count a use of a file, which may be open for long. Returns whether it is there."""
        with self._lock:
            if content in self._held:
                self._held.move_to_end(content)
                return True
        return self._place is not None and self._place.use(content)

    def open(self, content: str) -> BinaryIO | None:
        """Open the file of a content, which counts as a use; None if there is none."""
        with self._lock:
            if (data := self._held.get(content)) is not None:
                self._held.move_to_end(content)
                return io.BytesIO(data)
        if self._place is None:
            return None
        try:
            return self._place.open(content)
        except OSError as error:
            self._report(f"{content} cannot be read", error)
            return None

    async def save(
        self, content: str, data: bytes, *, while_named: WhileNamed, is_named: Callable[[str], bool]
    ) -> None:
        """Keep a file, unless there is one.

        `while_named(content, action)` runs an action if the content has a name, so that a deleted video does not
        appear afterwards. It may fail with the disk; `is_named(content)`, on the event loop, does not.
        """
        place = self._place
        if place is None:
            await while_named(content, lambda: self._hold(content, data))
            return
        if await self._write(place, content, data, while_named):
            await asyncio.to_thread(self.trim)
        elif is_named(content):
            self._hold(content, data)

    def remove(self, content: str) -> None:
        """Remove a file; from a bucket in the background. A failure is logged."""
        self._let_go(content)
        if self._place is not None:
            try:
                self._place.remove(content)
            except OSError as error:
                self._report(f"the file of {content} cannot be removed", error)

    async def wait_removed(self, content: str) -> None:
        """Wait until it has been tried to remove a file from a bucket."""
        if self._removals is not None:
            await self._removals.wait([content])

    def spare_named(self, while_named: WhileNamed) -> None:
        """Remove nothing from a bucket that has a name when its turn has come. Call it on the event loop."""
        if self._removals is not None:
            self._removals.spare_named(while_named)

    def retry(self) -> None:
        """Remove what a bucket that failed still has."""
        if self._removals is not None:
            self._removals.retry()

    async def write_held(self, while_named: WhileNamed) -> None:
        """Write what is held in memory because the disk or the bucket failed, until it fails again."""
        if (place := self._place) is None:
            return
        with self._lock:
            held = list(self._held.items())
        for content, data in held:
            if not await self._write(place, content, data, while_named):
                return
            self._let_go(content)

    async def _write(
        self, place: VideoFolder | VideoObjects, content: str, data: bytes, while_named: WhileNamed
    ) -> bool:
        """Write a file if it has a name, and return True. Return False where the disk or the bucket fails."""
        try:
            await appeared(
                content,
                partial(place.write_beside, content, data),
                while_named=while_named,
                run=asyncio.to_thread,
            )
        except (OSError, sqlite3.Error) as error:
            self._report("a video cannot be written", error)
            return False
        if self._trouble is not None:
            self._trouble.over()
        return True

    def trim(self) -> None:
        """Remove files beyond the capacity."""
        if self._place is None:
            return
        try:
            self._placed_bytes = self._place.trim(self._capacity_bytes, self._on_evict)
        except FileNotFoundError:
            return  # nothing was written yet, or another server removed a file: the next run sees the rest
        except OSError as error:
            self._report("old videos cannot be removed", error)

    async def close(self) -> None:
        """Finish the removals from a bucket, for at most CLOSE_S."""
        if self._removals is not None:
            await asyncio.to_thread(partial(self._removals.close, patience_s=CLOSE_S))

    def _hold(self, content: str, data: bytes) -> None:
        with self._lock:
            self._held_bytes += len(data) - len(self._held.pop(content, b""))
            self._held[content] = data
            while self._held_bytes > self._capacity_bytes and len(self._held) > 1:
                oldest, evicted = self._held.popitem(last=False)
                self._held_bytes -= len(evicted)
                self._on_evict(oldest)

    def _let_go(self, content: str) -> None:
        with self._lock:
            if (data := self._held.pop(content, None)) is not None:
                self._held_bytes -= len(data)

    def _report(self, what: str, error: Exception) -> None:
        if self._trouble is not None and not isinstance(error, NamesAway):
            self._trouble.report(what, error)
