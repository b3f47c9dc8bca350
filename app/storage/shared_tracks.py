"""Tracks in a PostgreSQL that several servers share: their prompts, as JSON.

A server writes a track only if it has seen what the others wrote. Does not know what is in a track.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from app.names_errors import NamesUnreachable
from app.storage.kept_tracks import ChangedElsewhere, TrackChanges, TrackRow
from app.storage.postgres import Postgres
from app.storage.postgres_line import Connection
from app.storage.register_file import Key
from app.storage.shared_changes import SharedChanges
from app.storage.shared_clock import SharedClock
from app.storage.shared_schema import lock

_PUT = b"""
    INSERT INTO sam2_tracks (tenant, id, change, content) VALUES (%s, %s, %s, %s)
    ON CONFLICT (tenant, id) DO UPDATE SET change = excluded.change, content = excluded.content
"""

_ROWS_AT_ONCE = 20
"""Tracks in one query, which has 5 s: each may have thousands of frames, and masks."""


class _Look(NamedTuple):
    """What a look at the database reads."""

    over: int
    """The connection, by its number."""
    last: int
    """The newest change."""
    since: int
    is_all: bool


class SharedTracks:
    """A TrackKeeper. Its numbers are those of changes, which have the order of the commits (shared_changes.py)."""

    def __init__(self, postgres: Postgres, clock: SharedClock) -> None:
        self._postgres, self._clock, self._changes = postgres, clock, SharedChanges("track")
        self._seen = -1
        self._read_over = 0  # the connection over which all tracks were read, by its number
        self._looking = asyncio.Lock()
        self._found = deque[TrackChanges]()  # survives a caller who goes away

    def now(self) -> float:
        """Return the time by which tracks have their ages."""
        return self._clock.now()

    async def catch_up(self, *, waits: bool) -> list[TrackChanges]:
        """Return what other servers did. Without the database, nothing, or raise NamesUnreachable after a wait."""
        try:
            await (self._postgres.patiently(self._look) if waits else self._look())
        except NamesUnreachable:
            if waits:
                raise
        return [self._found.popleft() for _ in range(len(self._found))]

    async def save(
        self, key: Key, content: dict[str, Any], number: int, *, is_wanted: Callable[[], bool], waits: bool
    ) -> int:
        """Write a track, unless it is not wanted any more by then. Returns its new number.

        `number` is what the last `save` returned or `catch_up` told; 0 for a new track. Raises ChangedElsewhere if
        the database has another one, and NamesUnreachable.
        """
        text = json.dumps(content)

        async def write() -> int:
            return await self._postgres.once(
                lambda connection: self._write(connection, key, text, number, is_wanted), in_order=True
            )

        return await (self._postgres.patiently(write) if waits else write())

    async def remove(self, key: Key) -> None:
        """Remove a track, if there is one. Raises NamesUnreachable, for a request after a wait."""

        async def remove() -> None:
            await self._postgres.once(lambda connection: self._remove(connection, key), in_order=True)

        await self._postgres.patiently(remove)

    async def _look(self) -> None:
        """Find what has changed. In pages, as many tracks take longer than a job may.

        A track that is written meanwhile comes on a later page; one that is removed, with the next look.
        """
        async with self._looking:
            look = await self._postgres.once(self._begin, in_order=True)
            if look is None:
                return
            rows, after = list[TrackRow](), look.since
            while page := await self._postgres.once(partial(self._page, after), in_order=True):
                rows += page
                after = page[-1].number
            removed = await self._postgres.once(
                lambda connection: self._changes.removed(connection, look.since), in_order=True
            )
            self._found.append(TrackChanges(rows, removed, all_until=look.last if look.is_all else None))
            self._seen, self._read_over = look.last, look.over

    # On a thread of Postgres.

    def _begin(self, connection: Connection) -> _Look | None:
        """Return what is to be read; None if nothing has changed."""
        over = self._postgres.ordered.made
        last, forgotten = self._changes.last(connection)
        if over == self._read_over and last == self._seen:
            return None
        is_all = over != self._read_over or not forgotten <= self._seen < last
        return _Look(over, last, -1 if is_all else self._seen, is_all)

    @staticmethod
    def _page(after: int, connection: Connection) -> list[TrackRow]:
        rows = connection.execute(
            "SELECT tenant, id, content, change FROM sam2_tracks WHERE change > %s ORDER BY change LIMIT %s",
            (after, _ROWS_AT_ONCE),
        ).fetchall()
        return [TrackRow(Key(tenant, name), json.loads(text), number) for tenant, name, text, number in rows]

    def _write(
        self, connection: Connection, key: Key, text: str, number: int, is_wanted: Callable[[], bool]
    ) -> int:
        with connection.transaction():
            lock(connection, [_subject(key)])
            rows = connection.execute(
                "SELECT change, content FROM sam2_tracks WHERE tenant = %s AND id = %s", key
            ).fetchall()
            if not is_wanted():
                return number
            if rows and rows[0][1] == text:
                return int(rows[0][0])  # by this server, which did not hear that it was done
            if (rows[0][0] if rows else 0) != number:
                raise ChangedElsewhere(TrackRow(key, json.loads(rows[0][1]), rows[0][0]) if rows else None)
            new = self._changes.next(connection)
            connection.execute(_PUT, (*key, new, text))
            return new

    def _remove(self, connection: Connection, key: Key) -> None:
        with connection.transaction():
            lock(connection, [_subject(key)])
            known = connection.execute("SELECT 1 FROM sam2_tracks WHERE tenant = %s AND id = %s", key)
            if not known.fetchall():
                return
            self._changes.note_removed(connection, self._changes.next(connection), [key])
            connection.execute("DELETE FROM sam2_tracks WHERE tenant = %s AND id = %s", key)


def _subject(key: Key) -> str:
    return f"track {key.tenant}\0{key.image_id}"
