"""Pictures per minute of each client, counted by several servers together: a row each, by the database's clock.

Does not know what a client is.
"""

from time import monotonic
from typing import NamedTuple

from app.storage.postgres import Postgres
from app.storage.postgres_line import Connection

_TIDY_S = 60.0
_MOST_AT_ONCE = 100
"""Pictures. One request has 84 at most: crops of /everything."""
_TAKE = b"""
    WITH now AS (SELECT extract(epoch FROM clock_timestamp())::float8 AS s)
    INSERT INTO sam2_rates AS r SELECT %(share)s, now.s + %(cost)s FROM now
    ON CONFLICT (share) DO UPDATE SET full_at = CASE
        WHEN r.full_at > excluded.full_at - %(cost)s + %(ahead)s THEN excluded.full_at
        ELSE greatest(r.full_at, excluded.full_at - %(cost)s) + %(cost)s
    END
    WHERE r.full_at - (excluded.full_at - %(cost)s) <= %(most)s - %(cost)s + 1e-6
        OR r.full_at > excluded.full_at - %(cost)s + %(ahead)s
    RETURNING 1
"""
_WAIT = b"SELECT full_at - extract(epoch FROM clock_timestamp())::float8 FROM sam2_rates WHERE share = %s"
_TIDY = b"DELETE FROM sam2_rates WHERE full_at < extract(epoch FROM clock_timestamp())"


class _Cost(NamedTuple):
    """What some pictures cost, in seconds of a bucket, and how many seconds a bucket may hold beside them."""

    share: str
    cost: float
    most: float
    ahead: float
    """No bucket is full later than so many seconds from now, unless the clock has been set back: it begins anew."""


class SharedRates:
    """Token buckets as PicturesPerMinute has them, in the database. `limit` 0: no limit, and no row."""

    def __init__(self, postgres: Postgres, limit: float) -> None:
        self._postgres, self._limit = postgres, limit
        self._tidy_at = 0.0

    async def take(self, share: str, count: int) -> float:
        """Count pictures, and return 0; or return after how many seconds the same call succeeds.

        Raises NamesUnreachable, without waiting for the database.
        """
        if not self._limit or not count:
            return 0.0
        cost_s = count * 60 / self._limit
        ahead_s = max(60.0, cost_s, _MOST_AT_ONCE * 60 / self._limit)
        cost = _Cost(share, cost_s, max(60.0, cost_s), ahead_s)
        return await self._postgres.once(lambda connection: self._take(connection, cost))

    def _take(self, connection: Connection, cost: _Cost) -> float:
        if monotonic() >= self._tidy_at:
            self._tidy_at = monotonic() + _TIDY_S
            connection.execute(_TIDY)
        if connection.execute(_TAKE, cost._asdict()).fetchall():
            return 0.0
        rows = connection.execute(_WAIT, (cost.share,)).fetchall()
        return max(1e-3, rows[0][0] + cost.cost - cost.most) if rows else 0.0
