"""Names of one kind in PostgreSQL: what each transaction reads and writes.

Every transaction that changes names takes the next number (shared_changes.py). Does not know about waiting and
caches.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.storage.postgres_line import Connection
from app.storage.register_file import Change, ImageName, Key, values_of
from app.storage.shared_changes import SharedChanges
from app.storage.shared_schema import lock

MOST_AT_ONCE = 32
"""Changes in one transaction. Each takes up to three locks, of which PostgreSQL has 6400 by default."""

_ROWS_AT_ONCE = 2000

_ONE_VIEW = b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
"""All statements of the transaction see the rows as of the first one."""

_COLUMNS = b"tenant, id, content, height, width, nbytes, created, used"

_PUT = b"""
    INSERT INTO sam2_names (kind, change, tenant, id, content, height, width, nbytes, created, used)
    SELECT %s, %s, * FROM unnest(
        %s::text[], %s::text[], %s::text[], %s::int[], %s::int[], %s::bigint[], %s::float8[], %s::float8[]
    )
    ON CONFLICT (kind, tenant, id) DO UPDATE SET
        content = excluded.content, height = excluded.height, width = excluded.width, nbytes = excluded.nbytes,
        created = excluded.created, used = excluded.used, change = excluded.change
"""


@dataclass(slots=True, eq=False)
class Asked:
    """A change that is asked for, and what became of it."""

    key: Key
    change: Change
    created: float | None = None
    """Not None: only if the name was given then."""
    is_done: bool = False
    is_conflict: bool = False
    """The name has another content and may not be replaced."""
    left: str | None = None
    """The content that lost this name, and is without any."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What other servers did since an earlier change."""

    last: int
    """The newest change."""
    rows: Sequence[ImageName]
    removed: Collection[Key]


class SharedNames:
    """The rows of one kind. Every method may raise psycopg.Error."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._changes = SharedChanges(kind)

    def last(self, connection: Connection) -> int:
        """Return the number of the newest change."""
        return self._changes.last(connection)[0]

    def page(self, connection: Connection, after: Key | None) -> list[ImageName]:
        """Return some names that follow a key in the order of keys; none at the end."""
        query = b"SELECT " + _COLUMNS + b" FROM sam2_names WHERE kind = %s "
        if after is not None:
            query += b"AND (tenant, id) > (%s, %s) "
        query += b"ORDER BY tenant, id LIMIT %s"
        rows = connection.execute(query, (self._kind, *(after or ()), _ROWS_AT_ONCE)).fetchall()
        return [ImageName(*row) for row in rows]

    def since(self, connection: Connection, seen: int) -> Seen | None:
        """Return what has changed since; None if that is not known, and everything must be read again."""
        last, forgotten = self._changes.last(connection)
        if last == seen:
            return Seen(last, (), ())
        if not forgotten <= seen < last:  # it was away for too long, or the database is an older copy
            return None
        with connection.transaction():
            connection.execute(_ONE_VIEW)
            last, _ = self._changes.last(connection)
            rows = connection.execute(
                b"SELECT " + _COLUMNS + b" FROM sam2_names WHERE kind = %s AND change > %s",
                (self._kind, seen),
            ).fetchall()
            removed = self._changes.removed(connection, seen)
        names = [ImageName(*row) for row in rows]
        return Seen(last, names, removed.keys() - {each.key for each in names})

    def apply(
        self,
        connection: Connection,
        asked: Sequence[Asked],
        *,
        since: float,
        on_unnamed: Callable[[str], None],
    ) -> tuple[int, dict[Key, ImageName | None]]:
        """Apply all changes or none. Returns the number of this change, 0 if nothing changed, and the new rows.

        Rows older than `since` count as missing. `on_unnamed` is called for each content that loses its last name,
        while no server can give it another one.
        """
        keys = list(dict.fromkeys(each.key for each in asked))
        with connection.transaction():
            lock(connection, [f"{self._kind} name {tenant}\0{image_id}" for tenant, image_id in keys])
            before = self._rows(connection, keys)
            after = dict[Key, ImageName | None](before)
            for each in asked:
                after[each.key] = _changed(after.get(each.key), each, since=since)
            new = {each.content for each in after.values() if each is not None}
            old = {each.content for each in before.values()}
            self._lock_contents(connection, old | new)
            unnamed = old - new - self._named(connection, old, but=keys)
            for content in unnamed:
                on_unnamed(content)
            for each in asked:
                row = before.get(each.key)
                each.left = row.content if row is not None and row.content in unnamed else None
            changed = {key: row for key, row in after.items() if row != before.get(key)}
            return self._write(connection, changed) if changed else 0, changed

    def drop_unnamed(
        self, connection: Connection, contents: Collection[str], on_unnamed: Callable[[str], None]
    ) -> None:
        """Call `on_unnamed` for those contents that have no name, while no server can give them one."""
        with connection.transaction():
            self._lock_contents(connection, contents)
            for content in set(contents) - self._named(connection, contents, but=()):
                on_unnamed(content)

    def while_named(self, connection: Connection, content: str, action: Callable[[], None]) -> bool:
        """Run an action if a content has a name, which it keeps until the end. Returns whether it has one."""
        with connection.transaction():
            self._lock_contents(connection, [content], shared=True)
            if not self._named(connection, [content], but=()):
                return False
            action()
            return True

    def old(self, connection: Connection, before: float, *, most: int) -> list[tuple[Key, float]]:
        """Return names given before a time and, beyond `most`, the least recently used; each with its time."""
        found: list[Any] = []
        # In one view: what another server expires in between would count twice, as gone and as surplus.
        with connection.transaction():
            connection.execute(_ONE_VIEW)
            [(count,)] = connection.execute(
                "SELECT count(*) FROM sam2_names WHERE kind = %s", (self._kind,)
            ).fetchall()
            if before > -math.inf:
                found = connection.execute(
                    "SELECT tenant, id, created FROM sam2_names WHERE kind = %s AND created < %s",
                    (self._kind, before),
                ).fetchall()
            if (too_many := count - len(found) - most) > 0:
                found += connection.execute(
                    "SELECT tenant, id, created FROM sam2_names WHERE kind = %s AND created >= %s "
                    "ORDER BY used LIMIT %s",
                    (self._kind, before, too_many),
                ).fetchall()
        return [(Key(tenant, image_id), created) for tenant, image_id, created in found]

    def use(self, connection: Connection, used: Mapping[Key, float]) -> None:
        """Record when names were used."""
        tenants, ids, moments = zip(*((*key, used[key]) for key in sorted(used)), strict=True)
        connection.execute(
            "UPDATE sam2_names AS n SET used = greatest(n.used, u.used) "
            "FROM unnest(%s::text[], %s::text[], %s::float8[]) AS u (tenant, id, used) "
            "WHERE n.kind = %s AND n.tenant = u.tenant AND n.id = u.id",
            (list(tenants), list(ids), list(moments), self._kind),
        )

    def _rows(self, connection: Connection, keys: Sequence[Key]) -> dict[Key, ImageName]:
        rows = connection.execute(
            b"SELECT " + _COLUMNS + b" FROM sam2_names WHERE kind = %s AND (tenant, id) IN "
            b"(SELECT * FROM unnest(%s::text[], %s::text[]))",
            (self._kind, [key.tenant for key in keys], [key.image_id for key in keys]),
        ).fetchall()
        return {name.key: name for name in (ImageName(*row) for row in rows)}

    def _named(self, connection: Connection, contents: Collection[str], *, but: Collection[Key]) -> set[str]:
        """Return those contents that have a name beside these."""
        if not contents:
            return set()
        rows = connection.execute(
            "SELECT content, tenant, id FROM sam2_names WHERE kind = %s AND content = ANY(%s)",
            (self._kind, list(contents)),
        ).fetchall()
        return {content for content, *key in rows if Key(*key) not in but}

    def _lock_contents(
        self, connection: Connection, contents: Collection[str], *, shared: bool = False
    ) -> None:
        lock(connection, [f"{self._kind} content {each}" for each in contents], shared=shared)

    def _write(self, connection: Connection, changed: Mapping[Key, ImageName | None]) -> int:
        number = self._changes.next(connection)
        removed = [key for key, row in changed.items() if row is None]
        rows = [row for row in changed.values() if row is not None]
        if removed:
            connection.execute(
                "DELETE FROM sam2_names WHERE kind = %s AND (tenant, id) IN "
                "(SELECT * FROM unnest(%s::text[], %s::text[]))",
                (self._kind, [key.tenant for key in removed], [key.image_id for key in removed]),
            )
            self._changes.note_removed(connection, number, removed)
        if rows:
            columns = zip(*map(values_of, rows), strict=True)
            connection.execute(
                _PUT,
                (self._kind, number, *(list(column) for column in columns)),
            )
        return number


def _changed(row: ImageName | None, asked: Asked, *, since: float) -> ImageName | None:
    """Return a name's row after a change."""
    new = asked.change.name
    asked.is_conflict = False
    is_alive = row is not None and row.created >= since
    if asked.created is not None and (row is None or row.created != asked.created):
        return row
    if new is None or row is None or not is_alive:
        return new
    if row.content == new.content:
        return replace(new, created=row.created)  # another server was faster with the same picture
    if not asked.change.replace:
        asked.is_conflict = True
        return row
    return new
