"""The clock of a PostgreSQL that several servers share: their own may differ by minutes.

By it all of them say when a name was given, and whether it is young, old or expired. Does not know about names.
"""

from time import monotonic, time

from app.storage.postgres_line import Connection

_NOW = b"SELECT extract(epoch FROM clock_timestamp())::float8"


class SharedClock:
    """Goes on by itself from when it was last set; until then it is this machine's."""

    def __init__(self) -> None:
        self._ahead_s: float | None = None
        """Of the monotonic clock, which nobody sets."""

    def now(self) -> float:
        """Return the seconds since 1970. On any thread."""
        ahead_s = self._ahead_s
        return time() if ahead_s is None else monotonic() + ahead_s

    def set(self, connection: Connection) -> None:
        """Set it by the database's. Raises psycopg.Error."""
        asked = monotonic()
        [(now,)] = connection.execute(_NOW).fetchall()
        self._ahead_s = now - (asked + monotonic()) / 2
