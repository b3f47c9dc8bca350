"""The register of images in SQLite: which image of which tenant has which content.

One thread writes, another reads. Both see what other processes wrote. Does not know about embeddings, or what to do
when a disk fails.
"""

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from app.storage.damaged_files import is_damage, move_aside
from app.storage.pages import Placed
from app.storage.wal import begin_wal

BUSY_MS = 5000
"""Longest wait, in milliseconds, for another process that writes. A write takes milliseconds."""

VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS names (
    tenant TEXT NOT NULL, image_id TEXT NOT NULL, content TEXT NOT NULL,
    height INTEGER NOT NULL, width INTEGER NOT NULL, nbytes INTEGER NOT NULL,
    created REAL NOT NULL, used REAL NOT NULL,
    PRIMARY KEY (tenant, image_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS names_by_content ON names (content);
CREATE INDEX IF NOT EXISTS names_by_age ON names (created);
CREATE INDEX IF NOT EXISTS names_of_tenant_by_age ON names (tenant, created, image_id);
"""
_PUT = "INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class Key(NamedTuple):
    """The key of one image: its tenant and its id."""

    tenant: str
    image_id: str


@dataclass(frozen=True, slots=True)
class ImageName:
    """A row: one name of a content."""

    tenant: str
    image_id: str
    content: str
    height: int
    width: int
    nbytes: int
    """Size of its embedding in memory, in bytes."""
    created: float
    """Seconds since 1970, when the name was given."""
    used: float
    """Seconds since 1970, when it was last used."""

    @property
    def key(self) -> Key:
        """The key of this name."""
        return Key(self.tenant, self.image_id)


values_of: Callable[[ImageName], tuple[Any, ...]] = attrgetter(*(field.name for field in fields(ImageName)))
"""The values of a row in the order of its columns; dataclasses.astuple takes ten times as long."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change to a name: its new row, or None to remove it."""

    name: ImageName | None
    replace: bool = True
    """Whether the name may be taken from another content."""


class RegisterFile:
    """An open register. Every method may raise sqlite3.Error; opening may also raise OSError."""

    def __init__(self, path: Path | None) -> None:
        """Open or create the file; None for a register in memory."""
        self._path = path
        # In memory both threads share one connection. SQLite allows that, but Python's module has not since 3.12:
        # the threads also share its prepared statements, and get errors and rows of another query.
        self._alone: AbstractContextManager[object] = threading.RLock() if path is None else nullcontext()
        if path is None:
            self._writer = self._reader = _connect(":memory:")
            self._writer.executescript(_SCHEMA)
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._writer = _connect(str(path))
        try:
            self._prepare()
            self._reader = _connect(str(path))
            self._inode = path.stat().st_ino
        except BaseException:
            self._writer.close()
            raise

    def _prepare(self) -> None:
        begin_wal(self._writer, patience_s=BUSY_MS / 1000)
        # A killed process loses nothing that was committed. After a power cut the last moments may be missing, but
        # the file is whole. FULL would wait for the disk at every upload.
        self._writer.execute("PRAGMA synchronous = NORMAL")
        columns = [name for _, name, *_ in self._writer.execute("PRAGMA table_info(names)").fetchall()]
        with self._transaction():
            [(version,)] = self._writer.execute("PRAGMA user_version").fetchall()
            if version > VERSION:
                raise sqlite3.OperationalError(
                    f"the register was made by a newer server: version {version}, not {VERSION}"
                )
            if columns and columns != [field.name for field in fields(ImageName)]:
                raise sqlite3.DatabaseError(f"its table has other columns: {', '.join(columns)}")
            if version < VERSION:
                for statement in _SCHEMA.split(";"):
                    self._writer.execute(statement)
                self._writer.execute(f"PRAGMA user_version = {VERSION}")
        self._seen = self._data_version()

    def close(self) -> None:
        """Close the connections. Nothing else may run."""
        self._reader.close()
        self._writer.close()

    def is_in_place(self) -> bool:
        """Whether the path still names the open file, and nobody has removed it."""
        if self._path is None:
            return True
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    # For the thread that reads.

    def find(self, key: Key) -> ImageName | None:
        """Return the row of a name. Takes 6 microseconds."""
        rows = self._read("SELECT * FROM names WHERE tenant = ? AND image_id = ?", key)
        return ImageName(*rows[0]) if rows else None

    def contents(self, tenant: str, *, beginning: str) -> set[str]:
        """Return the contents of a tenant's names that begin like this."""
        query = "SELECT content FROM names WHERE content >= ? AND content < ? AND tenant = ?"
        return {content for (content,) in self._read(query, (beginning, f"{beginning}~", tenant))}

    def keys_of(self, content: str) -> list[Key]:
        """Return the keys of all names of a content."""
        rows = self._read("SELECT tenant, image_id FROM names WHERE content = ?", (content,))
        return [Key(*row) for row in rows]

    def newest(self, tenant: str, *, limit: int, since: float, after: Placed | None) -> list[ImageName]:
        """Return at most `limit` names of a tenant, newest first, given since `since`, that follow `after`."""
        created, image_id = (after.created, after.image_id) if after is not None else (float("inf"), "")
        rows = self._read(
            "SELECT * FROM names WHERE tenant = ? AND created >= ? AND (created, image_id) < (?, ?) "
            "ORDER BY created DESC, image_id DESC LIMIT ?",
            (tenant, since, created, image_id, limit),
        )
        return [ImageName(*row) for row in rows]

    def _read(self, query: str, values: Sequence[object]) -> list[Any]:
        with self._alone:
            return self._reader.execute(query, values).fetchall()

    # For the thread that writes.

    def apply(
        self, changes: Mapping[Key, Change], *, since: float, on_unnamed: Callable[[str], None]
    ) -> None:
        """Apply all changes or none. A name that has another content and may not be replaced stays as it is.

        Rows older than `since` count as missing. `on_unnamed` is called within the transaction for each content
        that loses its last name, so no process can give it another one at the same time.
        """
        left = set()
        with self._transaction():
            for key, change in changes.items():
                old, new = self._row(key), change.name
                taken = old is not None and new is not None and old.content != new.content
                if taken and not change.replace and old is not None and old.created >= since:
                    continue
                if new is None:
                    self._delete(key)
                else:
                    self._put(new)
                if old is not None:
                    left.add(old.content)
            for content in self._without_names(left):
                on_unnamed(content)

    def expire(self, before: float, *, most: int, on_unnamed: Callable[[str], None]) -> frozenset[str]:
        """Remove names given before a time and, beyond `most` names, the least recently used.

        Returns the contents that lost their last name; `on_unnamed` is called as in `apply`.
        """
        if not self.has_old(before, most=most):
            return frozenset()
        with self._transaction():
            [(count,)] = self._writer.execute("SELECT count(*) FROM names").fetchall()
            rows = self._writer.execute(
                "SELECT tenant, image_id, content FROM names WHERE created < ?", (before,)
            ).fetchall()
            rows += self._writer.execute(
                "SELECT tenant, image_id, content FROM names WHERE created >= ? ORDER BY used LIMIT ?",
                (before, max(0, count - len(rows) - most)),
            ).fetchall()
            for tenant, image_id, _ in rows:
                self._delete(Key(tenant, image_id))
            unnamed = self._without_names({content for _, _, content in rows})
            for content in unnamed:
                on_unnamed(content)
        return frozenset(unnamed)

    def has_old(self, before: float, *, most: int) -> bool:
        """Whether there are names that `expire` removes."""
        with self._alone:
            [(count, oldest)] = self._writer.execute("SELECT count(*), min(created) FROM names").fetchall()
        return count > most or (oldest is not None and oldest < before)

    def fill(self, names: Sequence[ImageName]) -> None:
        """Put many names at once, which are new or those that are there."""
        with self._transaction():
            self._writer.executemany(_PUT, map(values_of, names))

    def keys(self) -> set[Key]:
        """Return the keys of all names."""
        return {Key(*row) for row in self._read("SELECT tenant, image_id FROM names", ())}

    def use(self, used: Mapping[Key, float]) -> None:
        """Record when names were used."""
        with self._transaction():
            self._writer.executemany(
                "UPDATE names SET used = max(used, ?) WHERE tenant = ? AND image_id = ?",
                [(moment, *key) for key, moment in used.items()],
            )

    def while_named(self, content: str, action: Callable[[], None]) -> bool:
        """Run an action if a content has a name, which it keeps until the end. Returns whether it has one."""
        with self._transaction():
            if self._without_names({content}):
                return False
            action()
            return True

    def unnamed(self, contents: Collection[str]) -> set[str]:
        """Return those contents that have no name."""
        with self._alone:
            return self._without_names(contents)

    def changed_elsewhere(self) -> bool:
        """Whether another process has written since the last call."""
        if self._path is None:
            return False
        version = self._data_version()
        changed, self._seen = version != self._seen, version
        return changed

    def take_over(self, other: "RegisterFile") -> None:
        """Add the rows of another register that are missing here. Of a damaged one, those that can be read."""
        rows: list[Sequence[object]] = []
        try:
            with other._alone:
                rows.extend(other._writer.execute("SELECT * FROM names"))
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
        with self._transaction():
            self._writer.executemany("INSERT OR IGNORE INTO names VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._alone:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _row(self, key: Key) -> ImageName | None:
        rows = self._writer.execute("SELECT * FROM names WHERE tenant = ? AND image_id = ?", key).fetchall()
        return ImageName(*rows[0]) if rows else None

    def _put(self, name: ImageName) -> None:
        self._writer.execute(_PUT, values_of(name))

    def _delete(self, key: Key) -> None:
        self._writer.execute("DELETE FROM names WHERE tenant = ? AND image_id = ?", key)

    def _without_names(self, contents: Collection[str]) -> set[str]:
        any_name = "SELECT 1 FROM names WHERE content = ? LIMIT 1"
        return {content for content in contents if not self._writer.execute(any_name, (content,)).fetchall()}

    def _data_version(self) -> int:
        [(version,)] = self._writer.execute("PRAGMA data_version").fetchall()
        return int(version)


def open_register(path: Path) -> tuple[RegisterFile, Path | None]:
    """Open a register. A file that is not a database is moved to the returned path. Raises as RegisterFile."""
    try:
        return RegisterFile(path), None
    except sqlite3.OperationalError:
        raise  # the disk fails, or another process writes
    except sqlite3.DatabaseError:
        aside = move_aside(path)
        return RegisterFile(path), aside


def _connect(where: str) -> sqlite3.Connection:
    # Opened in one thread and used in another.
    return sqlite3.connect(where, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
