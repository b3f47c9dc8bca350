"""The numbers of changes in a PostgreSQL that several servers share, and what was removed by which change.

A transaction that takes the next number of a kind holds its row until it ends. So numbers have the order of the
commits, and a server that has seen one has seen all before it. Does not know what is changed.
"""

from collections.abc import Collection

from app.storage.postgres_line import Connection
from app.storage.register_file import Key

_FORGOTTEN_AFTER = "1 hour"
"""A server that has heard nothing for so long reads everything again."""


class SharedChanges:
    """The changes of one kind. Every method may raise psycopg.Error."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def last(self, connection: Connection) -> tuple[int, int]:
        """Return the number of the newest change, and up to which one removals may be forgotten."""
        [(last, forgotten)] = connection.execute(
            "SELECT last, forgotten FROM sam2_changes WHERE kind = %s", (self._kind,)
        ).fetchall()
        return int(last), int(forgotten)

    def next(self, connection: Connection) -> int:
        """Take the next number."""
        [(number,)] = connection.execute(
            "UPDATE sam2_changes SET last = last + 1 WHERE kind = %s RETURNING last", (self._kind,)
        ).fetchall()
        return int(number)

    def note_removed(self, connection: Connection, number: int, keys: Collection[Key]) -> None:
        """Record what the change of that number removes."""
        connection.execute(
            "INSERT INTO sam2_removed (kind, change, tenant, id) "
            "SELECT %s, %s, * FROM unnest(%s::text[], %s::text[])",
            (self._kind, number, [key.tenant for key in keys], [key.image_id for key in keys]),
        )

    def removed(self, connection: Connection, since: int) -> dict[Key, int]:
        """Return what later changes removed, each with the newest of their numbers."""
        rows = connection.execute(
            "SELECT tenant, id, max(change) FROM sam2_removed WHERE kind = %s AND change > %s GROUP BY tenant, id",
            (self._kind, since),
        ).fetchall()
        return {Key(tenant, name): int(number) for tenant, name, number in rows}


def forget_removed(connection: Connection) -> None:
    """Forget removals of all kinds that every server has seen."""
    connection.execute(
        "WITH old AS (DELETE FROM sam2_removed WHERE removed < now() - %s::interval RETURNING kind, change), "
        "newest AS (SELECT kind, max(change) AS change FROM old GROUP BY kind) "
        "UPDATE sam2_changes AS c SET forgotten = greatest(c.forgotten, newest.change) "
        "FROM newest WHERE c.kind = newest.kind",
        (_FORGOTTEN_AFTER,),
    )
