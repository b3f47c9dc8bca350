"""The register of images for the event loop: reads directly, writes on a thread, and works without a disk too.

Changes that cannot be written stay in memory, on top of the file, until they can. Does not know about embeddings.
"""

import asyncio
import logging
import math
import sqlite3
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import TypeVar

from app.errors import ImageIdConflict
from app.storage.damaged_files import is_damage, move_aside
from app.storage.disk_trouble import DiskTrouble
from app.storage.pages import Placed
from app.storage.register_file import Change, ImageName, Key, RegisterFile, open_register

T = TypeVar("T")

log = logging.getLogger(__name__)

MOST_NAMES = 200_000
"""Beyond this number the least recently used names are removed. They take 60 MB if the register is in memory."""

RETRY_S = 1.0
"""Seconds after a failure during which the disk is not tried again."""


class Register:
    """Names of images by tenant. Belongs to the event loop on which `open` is called.

    `on_unnamed` is called on a worker thread for each content that loses its last name, if the register can make
    sure that no other process gives it a new one at the same time. The methods also return these contents.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        ttl_s: float,
        trouble: DiskTrouble | None,
        on_unnamed: Callable[[str], None],
    ) -> None:
        """Create a register; `open` opens it. `folder` None: in memory only. `ttl_s` 0: names do not expire."""
        self._path = folder / "register.sqlite" if folder is not None else None
        self._ttl_s = ttl_s
        self._trouble = trouble
        self._on_unnamed = on_unnamed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="register")
        self._file: RegisterFile  # set by `open`
        self._stands_in = False
        self._unsaved: dict[Key, Change] = {}
        self._used: dict[Key, float] = {}
        self._flushing = asyncio.Lock()
        self._broken_until = 0.0
        self._is_damaged = False

    async def open(self) -> None:
        """Open the file. If that fails, use a register in memory instead."""
        self._file = await self._run(self._open)

    async def close(self) -> None:
        """Write the remaining changes, and close the file."""
        await self.tend()
        await self._run(self._file.close)
        self._thread.shutdown(wait=False)

    def now(self) -> float:
        """Return the time by which names have their ages."""
        return time()

    def find(self, image_id: str, *, tenant: str) -> ImageName | None:
        """Look up a name; None if it is unknown or expired."""
        key = Key(tenant, image_id)
        change = self._unsaved.get(key)
        name = change.name if change is not None else self._read(lambda: self._file.find(key), None)
        return name if name is not None and name.created >= self._since() else None

    async def catch_up(self, *, waits: bool = True) -> None:
        """Do nothing: `find` reads what other processes did."""

    async def check_arrived(self, content: str) -> None:
        """Do nothing: who names a content here need not wait for others to write it."""

    def use(self, name: ImageName) -> None:
        """Record a use of a name."""
        self._used[name.key] = time()

    def used(self, name: ImageName) -> float:
        """Return when a name was last used."""
        return self._used.get(name.key, name.used)

    def is_named(self, content: str) -> bool:
        """Whether any tenant has a name for a content."""
        if self._is_named_unsaved(content):
            return True
        nothing: list[Key] = []
        keys = self._read(lambda: self._file.keys_of(content), nothing)
        return any(key not in self._unsaved for key in keys)

    def contents(self, *, tenant: str, beginning: str) -> set[str]:
        """Return the contents of a tenant's names that begin like this."""
        nothing = set[str]()
        found = self._read(lambda: self._file.contents(tenant, beginning=beginning), nothing)
        unsaved = {
            each.name.content for each in self._unsaved.values() if each.name and each.name.tenant == tenant
        }
        return found | {content for content in unsaved if content.startswith(beginning)}

    def newest(self, *, tenant: str, limit: int, after: Placed | None) -> list[ImageName]:
        """Return at most `limit` names that follow `after`, newest first."""
        since = self._since()
        nothing: list[ImageName] = []
        rows = self._read(
            lambda: self._file.newest(tenant, limit=limit + len(self._unsaved), since=since, after=after),
            nothing,
        )
        names = [name for name in rows if name.key not in self._unsaved]
        for change in self._unsaved.values():
            name = change.name
            if name is None or name.tenant != tenant or name.created < since:
                continue
            if after is None or (name.created, name.image_id) < (after.created, after.image_id):
                names.append(name)
        names.sort(key=lambda name: (name.created, name.image_id), reverse=True)
        return names[:limit]

    async def add(self, name: ImageName, *, replace: bool) -> frozenset[str]:
        """Add a name. Returns the contents that lost their last name by it. Raises ImageIdConflict.

        Once this returns, the name survives the end of the process, unless the disk fails.
        """
        return await self._change(name.key, Change(name, replace=replace))

    async def remove(self, image_id: str, *, tenant: str) -> frozenset[str]:
        """Remove a name. Returns the contents that lost their last name by it."""
        key = Key(tenant, image_id)
        self._used.pop(key, None)
        return await self._change(key, Change(None))

    async def while_named(self, content: str, action: Callable[[], None]) -> bool:
        """Run an action on the thread if a content has a name. Returns whether it has one.

        Raises OSError and sqlite3.Error.
        """
        if self._is_named_unsaved(content):
            await self._run(action)
            return True
        return await self._run(lambda: self._file.while_named(content, action))

    async def unnamed(self, contents: Collection[str]) -> set[str]:
        """Return those contents that have no name."""
        try:
            found = await self._run(lambda: self._file.unnamed(contents))
        except sqlite3.Error as error:
            self._fail("the register cannot be read", error)
            return set()
        return {content for content in found if not self._is_named_unsaved(content)}

    async def expire(self) -> frozenset[str]:
        """Remove names that are too old or too many. Returns the contents that lost their last name by it."""
        since = self._since()
        old = [key for key, each in self._unsaved.items() if each.name and each.name.created < since]
        gone = {name.content for key in old if (name := self._unsaved.pop(key).name) is not None}
        try:
            found = await self._run(
                lambda: self._file.expire(since, most=MOST_NAMES, on_unnamed=self._on_unnamed)
            )
        except sqlite3.Error as error:
            self._fail("old names cannot be removed", error)
            found = frozenset()
        return found | {content for content in gone if not self.is_named(content)}

    async def changed_elsewhere(self) -> bool:
        """Whether another process has written since the last call."""
        try:
            return await self._run(lambda: self._file.changed_elsewhere())
        except sqlite3.Error as error:
            self._fail("the register cannot be read", error)
            return False

    async def tend(self) -> bool:
        """Write pending changes. True if the file was lost, and has been created again with all known names."""
        remade = await self._reopen()
        async with self._flushing:
            await self._flush()
        used, self._used = self._used, {}
        if used:
            try:
                await self._run(lambda: self._file.use(used))
            except sqlite3.Error as error:
                self._used = used | self._used
                self._fail("the register cannot be written", error)
        return remade

    async def _change(self, key: Key, change: Change) -> frozenset[str]:
        before = self.find(key.image_id, tenant=key.tenant)
        change = self._after_pending(key, change)
        self._unsaved[key] = change
        while len(self._unsaved) > MOST_NAMES:
            del self._unsaved[next(iter(self._unsaved))]
        async with self._flushing:
            if self._unsaved.get(key) is change:  # the last holder of the lock may have written it too
                await self._flush()
        now = self.find(key.image_id, tenant=key.tenant)
        if change.name is not None and not change.replace and now and now.content != change.name.content:
            raise ImageIdConflict.for_id(key.image_id)  # another process was faster
        if before is None or self.is_named(before.content):
            return frozenset()
        if key in self._unsaved:
            # Although its name is still on the disk.
            await self._run(partial(self._on_unnamed, before.content))
        return frozenset({before.content})

    def _after_pending(self, key: Key, change: Change) -> Change:
        """Return what a change is behind one that is not written yet: the name is as that one leaves it.

        Raises ImageIdConflict for a name that is about to belong to another content.
        """
        if change.name is None or change.replace:
            return change
        if (pending := self._unsaved.get(key)) is None:  # without the file, what the client is told counts
            return Change(change.name, replace=self._stands_in)
        if pending.name is not None and pending.name.content != change.name.content:
            raise ImageIdConflict.for_id(key.image_id)
        return Change(change.name, replace=pending.replace)

    async def _flush(self) -> None:
        if self._stands_in or not self._unsaved or monotonic() < self._broken_until:
            return  # what does not reach the file must reach it later: it may have other names
        changes, since = dict(self._unsaved), self._since()
        try:
            await self._run(lambda: self._file.apply(changes, since=since, on_unnamed=self._on_unnamed))
        except sqlite3.Error as error:
            self._fail("the register cannot be written", error)
            return
        for key, change in changes.items():
            if self._unsaved.get(key) is change:
                del self._unsaved[key]

    def _open(self) -> RegisterFile:
        if self._path is not None:
            try:
                return self._open_path(self._path)
            except (OSError, sqlite3.Error) as error:
                self._fail("the register cannot be opened", error)
        self._stands_in = self._path is not None
        return RegisterFile(None)

    def _open_path(self, path: Path) -> RegisterFile:
        file, aside = open_register(path)
        self._stands_in = False
        if aside is not None:
            log.error("%s was not a register and is now %s. Images must be uploaded again.", path, aside)
        return file

    async def _reopen(self) -> bool:
        """Open a new file if the old one was lost or could not be opened. Returns whether it did."""
        path = self._path
        if path is None or monotonic() < self._broken_until:
            return False
        if not self._stands_in:
            if await self._run(self._file.is_in_place):
                if not self._is_damaged:
                    return False
                log.error("%s is damaged; creating it again with the names that can be read.", path)
            else:
                log.error("%s was removed; creating it again with the known names.", path)
        try:
            lost = await self._run(lambda: self._replace(path))
        except (OSError, sqlite3.Error) as error:
            self._fail("the register cannot be opened", error)
            return False
        await self._run(lost.close)
        return True

    def _replace(self, path: Path) -> RegisterFile:
        """Switch to a new file and return the old one, which still has its rows even if its path is gone."""
        if self._is_damaged and self._file.is_in_place():  # else another process has replaced it already
            move_aside(path)
        file, lost = self._open_path(path), self._file
        try:
            file.take_over(lost)
        except sqlite3.Error:
            file.close()
            raise
        self._file, self._is_damaged = file, False
        return lost

    def _since(self) -> float:
        """Return the time before which names are expired."""
        return time() - self._ttl_s if self._ttl_s else -math.inf

    def _is_named_unsaved(self, content: str) -> bool:
        return any(each.name and each.name.content == content for each in self._unsaved.values())

    def _read(self, read: Callable[[], T], nothing: T) -> T:
        try:
            return read()
        except sqlite3.Error as error:
            self._fail("the register cannot be read", error)
            return nothing

    def _fail(self, what: str, error: Exception) -> None:
        self._broken_until = monotonic() + RETRY_S
        self._is_damaged = self._is_damaged or (isinstance(error, sqlite3.Error) and is_damage(error))
        if self._trouble is None:
            raise error  # without a disk it is a bug
        self._trouble.report(what, error)

    async def _run(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)
