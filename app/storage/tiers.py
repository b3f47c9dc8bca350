"""The tiers of embeddings: device memory, host memory, disk. The least recently used move one tier down.

The disk is a folder or a bucket. Every embedding that has a name is written to it at once, so that moving down
costs nothing. On a CPU the device memory is host memory, and there is no host tier. Belongs to the event loop; slow
work runs on worker threads. Identifies embeddings by content. Does not know about image names.
"""

import asyncio
import copy
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from app.scheduling.letting_go import held_while_running
from app.storage.disk_trouble import DiskTrouble
from app.storage.held_uploads import HeldUploads
from app.storage.kept_embeddings import KeptEmbeddings
from app.storage.memory_tier import MemoryTier, to_host
from app.storage.settling import Settling
from app.storage.written import NamesAway, WhileNamed, Written, appeared
from model.types import Embedding

T = TypeVar("T")
DEVICE, HOST, DISK = "device", "host", "disk"

MOST_MOVING = 4
"""Embeddings moving from the device to host memory. Beyond it, those that the disk has are dropped at once."""

MOST_SAVING = 4
"""Embeddings being written to the disk. Beyond it uploads wait: their replies must not promise what is not done."""

SLOW_DISK_S = 5.0
"""Longest wait of an upload for the disk, in seconds. A disk that hangs counts as one that fails."""

CLOSE_S = 10.0
"""Longest wait for the disk when the server stops, in seconds."""


class Tiers:
    """Embeddings by content in up to three tiers.

    `adopt` moves an embedding to the device. `while_named(content, action)` runs an action if the content has a
    name, so that a deleted content does not appear on the disk afterwards. `on_hit` and `on_evict` get the name of
    the tier.
    """

    def __init__(
        self,
        *,
        device_bytes: int,
        host_bytes: int,
        files: KeptEmbeddings | None,
        trouble: DiskTrouble | None,
        adopt: Callable[[Embedding], Awaitable[Embedding]],
        while_named: WhileNamed,
        on_hit: Callable[[str], None],
        on_evict: Callable[[str], None],
    ) -> None:
        """Create the tiers. `host_bytes` 0: no host tier. `files` None: no disk."""
        self.device = MemoryTier(device_bytes)
        self.host = MemoryTier(host_bytes) if host_bytes else None
        self.files = files
        self._trouble = trouble
        self._adopt = adopt
        self._while_named = while_named
        self._on_hit, self._on_evict = on_hit, on_evict
        self._fetching: dict[str, asyncio.Task[Embedding | None]] = {}
        self._moving, self._saving = dict[str, Embedding](), dict[str, Embedding]()
        self._uploads = HeldUploads()
        self._unsaved, self._used = dict[str, None](), set[str]()  # those first that were tried longest ago
        self._places = asyncio.Semaphore(MOST_SAVING)
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = ThreadPoolExecutor(files.readers if files else 2, thread_name_prefix="tiers")
        self._writing = ThreadPoolExecutor(files.writers if files else 1, thread_name_prefix="disk")
        self._moves = ThreadPoolExecutor(1, thread_name_prefix="move")
        self._settling = Settling(trouble)

    async def find(self, content: str) -> Embedding | None:
        """Return the embedding, on the device; None if no tier has it. Counts as a use.

        Returns at once if it is on the device; otherwise it is moved up first.
        """
        self._used.add(content)
        if (embedding := self._at_hand(content)) is not None:
            return embedding
        if self.files is None and (self.host is None or content not in self.host):
            return None
        task = self._fetching.get(content)
        if task is None:
            task = self._fetching[content] = asyncio.create_task(self._fetch(content))
            task.add_done_callback(partial(self._fetched, content))
        await asyncio.wait([task])  # continues for other waiting requests, and for the next one
        if (failure := task.exception()) is not None:
            raise copy.copy(failure) from failure.__cause__
        return task.result() or self._at_hand(content)  # it may have been made meanwhile

    def _at_hand(self, content: str) -> Embedding | None:
        """Return what need not be fetched: it is on the device, or has left it and is not elsewhere yet."""
        embedding = self.device.get(content)
        if embedding is None and (self.host is None or content not in self.host):
            embedding = self._moving.pop(content, None) or self._saving.get(content)
        if embedding is not None:
            if content not in self.device:
                self.put(content, embedding)
            self._on_hit(DEVICE)
        return embedding

    async def find_upload(self, content: str) -> bytes | None:
        """Return the picture file; None if it was not kept."""
        if (files := self.files) is None or content in self._uploads:
            return self._uploads.get(content)
        return await self._run(self._reading, lambda: files.read_upload(content))

    def put(self, content: str, embedding: Embedding) -> None:
        """Hold an embedding on the device. Others are evicted if needed."""
        for each in self.device.add(content, embedding):
            self._move_down(*each)

    def drop(self, content: str) -> None:
        """Release a content from memory, in every tier. The register removes its files."""
        self.device.pop(content)
        if self.host is not None:
            self.host.pop(content)
        self._moving.pop(content, None)
        self._saving.pop(content, None)
        self._fetching.pop(content, None)
        self._unsaved.pop(content, None)
        self._uploads.let_go(content)

    async def shed(self, fraction: float) -> int:
        """Evict the coldest embeddings, at least `fraction` (0..1) of the device's bytes. Returns their number.

        Waits until they have left, because an embedding that is moving to the host still takes device memory.
        """
        left, before = (1 - fraction) * self.device.used_bytes, len(self.device)
        while self.device and self.device.used_bytes > left:
            self._move_down(*self.device.pop_coldest())
        number = before - len(self.device)
        if leaving := self._leaving():
            await asyncio.wait(leaving)
        return number

    async def make_room(self) -> bool:
        """Evict the coldest embedding from the device and wait until it has left; false if there is none."""
        if not self.device and not self._moving:
            return False
        if not self._moving:
            self._move_down(*self.device.pop_coldest())
        if leaving := self._leaving():
            await asyncio.wait(leaving, return_when=asyncio.FIRST_COMPLETED)
        return True

    async def save(self, content: str, embedding: Embedding, *, upload: bytes | None) -> None:
        """Write an embedding and its upload to the disk in the background. Returns when the write has a place.

        Nothing is written if it is already there, or if the content has no name.
        """
        if self.files is None:
            return
        try:
            async with asyncio.timeout(SLOW_DISK_S):
                await self._places.acquire()
        except TimeoutError as error:
            self._not_saved(content, error, upload)
            return
        self._saving[content] = embedding
        self._uploads.hold(content, upload)
        self._start(self._save(self.files, content, embedding, upload), name=DISK)

    def save_all(self) -> None:
        """Write everything in memory again, because the disk has lost it."""
        if self.files is not None:
            self._unsaved |= dict.fromkeys(self.in_memory())

    def used_bytes(self, tier: str) -> int:
        """Return the bytes of embeddings in a tier; on disk, also of uploads."""
        place = self.files if tier == DISK else self.host if tier == HOST else self.device
        return place.used_bytes if place is not None else 0

    def num_images(self, tier: str) -> int:
        """Return the number of embeddings in a tier."""
        if tier == DISK:
            return self.files.num_embeddings if self.files is not None else 0
        place = self.host if tier == HOST else self.device
        return len(place) if place is not None else 0

    def holds(self, content: str) -> bool:
        """Whether a content is held in memory."""
        return content in self.device or content in self._moving or bool(self.host and content in self.host)

    def in_memory(self) -> set[str]:
        """Return the contents that are held in memory."""
        return {*self.device, *(self.host or ()), *self._moving}

    async def where(self, contents: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Return the tiers that hold each content."""
        on_disk: Collection[str] = ()
        if (files := self.files) is not None:
            on_disk = await self._run(self._reading, lambda: files.held(contents))
        in_host = {*(self.host or ()), *self._moving}
        places: dict[str, Collection[str]] = {DEVICE: set(self.device), HOST: in_host, DISK: on_disk}
        return {
            content: tuple(tier for tier, held in places.items() if content in held) for content in contents
        }

    async def tend(self) -> None:
        """Do the periodic maintenance: retry failed writes, and record uses on the disk."""
        used, self._used = self._used, set()
        if (files := self.files) is None:
            return
        await self._run(self._reading, lambda: files.touch(used))
        for content in list(self._unsaved):
            embedding = self.device.peek(content) or self._moving.get(content)
            embedding = embedding or (self.host.peek(content) if self.host else None)
            if embedding is None:
                self._unsaved.pop(content, None)
                self._uploads.let_go(content)
                continue
            await self._places.acquire()
            await self._save(files, content, embedding, self._uploads.get(content))
            if content in self._unsaved:
                break  # it still fails
        await self._run(self._writing, files.trim)

    async def close(self) -> None:
        """Wait for pending writes, for at most CLOSE_S."""
        for fetching in self._fetching.values():
            fetching.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        for executor in (self._reading, self._writing, self._moves):
            executor.shutdown(wait=False, cancel_futures=True)
        self._settling.close()

    async def _fetch(self, content: str) -> Embedding | None:
        """Move an embedding from host or disk to the device; None if neither has it or it was dropped by then."""
        files = self.files
        tier, embedding = HOST, self.host.get(content) if self.host is not None else None
        if embedding is None and files is not None:
            tier, embedding = DISK, await self._run(self._reading, lambda: files.read(content))
        if embedding is None:
            return None
        adopted = await self._adopt(embedding)
        # Not in a variable: in Python 3.13 that is a cycle, which keeps the task's result, a place on the device.
        if self._fetching.get(content) is not asyncio.current_task():
            return None
        if self.host is not None:
            self.host.pop(content)
        self._on_hit(tier)
        self.put(content, adopted)
        return adopted

    def _fetched(self, content: str, task: "asyncio.Task[Embedding | None]") -> None:
        if self._fetching.get(content) is task:
            del self._fetching[content]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: all waiting requests may be gone

    def _move_down(self, content: str, embedding: Embedding) -> None:
        self._on_evict(DEVICE)
        is_saved = self.files is not None and content not in self._unsaved
        if self.host is None or (is_saved and len(self._moving) >= MOST_MOVING):
            return
        self._moving[content] = embedding
        self._start(self._move(self.host, content, embedding), name=HOST)

    def _leaving(self) -> list[asyncio.Task[None]]:
        return [task for task in self._tasks if task.get_name() == HOST]

    async def _move(self, host: MemoryTier, content: str, embedding: Embedding) -> None:
        in_host = await self._run(self._moves, partial(to_host, embedding))  # behind no read of a slow disk
        if self._moving.get(content) is not embedding:
            return  # used again or dropped by then
        del self._moving[content]
        for _ in host.add(content, in_host) if in_host is not None else ():
            self._on_evict(HOST)

    async def _save(
        self, files: KeptEmbeddings, content: str, embedding: Embedding, upload: bytes | None
    ) -> None:
        """Write an upload and an embedding. The caller has acquired a place, which is released here."""
        self._unsaved.pop(content, None)  # before it is written: save_all may add it meanwhile
        try:
            run = partial(self._run, self._writing)
            writes: list[Callable[[], Written | None]] = [lambda: files.write_beside(content, embedding)]
            if upload is not None:
                writes.insert(0, lambda: files.write_upload_beside(content, upload))
            for write in writes:
                is_there, made = await appeared(content, write, while_named=self._while_named, run=run)
                if not is_there:
                    return
                if made is not None and self._settling.has_room:
                    self._start(self._settling.settled(made), name=DISK)
        except (OSError, sqlite3.Error, RuntimeError, MemoryError) as error:
            self._not_saved(content, error, upload)
        else:
            if self._trouble is not None:
                self._trouble.over()
            await self._run(self._writing, files.trim)
        finally:
            self._saving.pop(content, None)
            if content not in self._unsaved:
                self._uploads.let_go(content)
            self._places.release()

    def _not_saved(self, content: str, error: Exception, upload: bytes | None) -> None:
        self._unsaved[content] = None
        self._uploads.hold_if_there_is_room(content, upload)
        if self._trouble is not None and not isinstance(error, NamesAway):
            self._trouble.report("an embedding cannot be written", error)

    def _start(self, story: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(story, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, executor: ThreadPoolExecutor, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, held_while_running(job))
