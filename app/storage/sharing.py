"""What several servers share through PostgreSQL: names of images and videos, tracks, and the rates of clients.

Imported only where SAM2_REGISTER_URL is set. Does not know about requests.
"""

from collections.abc import Callable

from app.storage.postgres import Postgres
from app.storage.postgres_line import Connection
from app.storage.shared_clock import SharedClock
from app.storage.shared_rates import SharedRates
from app.storage.shared_register import SharedRegister
from app.storage.shared_schema import prepare
from app.storage.shared_tracks import SharedTracks


class Sharing:
    """One database, and what is kept there. Belongs to the event loop on which `open` is called."""

    def __init__(self, url: str) -> None:
        """Create it; `open` connects. Raises ValueError for a URL that cannot be read."""
        self._clock = SharedClock()
        self._postgres = Postgres(url, prepare=self._prepare)

    @property
    def problem(self) -> str:
        """Why the database cannot be used, in a sentence; empty if it can."""
        return self._postgres.problem

    async def open(self) -> None:
        """Connect, or go on trying. Raises UnusableDatabase."""
        await self._postgres.open()

    def drain(self) -> None:
        """Let no request wait any more for a database that cannot be used: the server stops."""
        self._postgres.drain()

    async def close(self) -> None:
        """Close the connections. The registers are closed by then."""
        await self._postgres.close()

    def register(self, kind: str, *, ttl_s: float, on_unnamed: Callable[[str], None]) -> SharedRegister:
        """Return the names of a kind."""
        return SharedRegister(self._postgres, kind, clock=self._clock, ttl_s=ttl_s, on_unnamed=on_unnamed)

    def tracks(self) -> SharedTracks:
        """Return the tracks."""
        return SharedTracks(self._postgres, self._clock)

    def rates(self, per_minute: float) -> SharedRates:
        """Return the pictures a minute of all clients."""
        return SharedRates(self._postgres, per_minute)

    def _prepare(self, connection: Connection) -> None:
        prepare(connection)
        self._clock.set(connection)
