"""Pictures per minute of each client: counted by this server, or by all servers that share a database.

Does not know what a client is.
"""

from typing import Protocol

from app.middleware.rates import PicturesPerMinute
from app.names_errors import NamesUnreachable


class Together(Protocol):
    """A count that servers share."""

    async def take(self, share: str, count: int) -> float:
        """Count pictures, and return 0; or return after how many seconds they may come. Raises NamesUnreachable."""


class PictureRates:
    """Counts new pictures. `together` None: this server counts for itself."""

    def __init__(self, per_minute: float, together: Together | None) -> None:
        self._own = PicturesPerMinute(per_minute)
        self._together = together

    async def take(self, share: str, count: int = 1) -> None:
        """Count pictures. Raises RateLimited. While the others cannot be asked, this server counts for itself."""
        if self._together is None:
            self._own.take(share, count)
            return
        try:
            wait_s = await self._together.take(share, count)
        except NamesUnreachable:
            self._own.take(share, count)
            return
        if wait_s > 0:
            raise self._own.refusal(wait_s)
