"""Limits for each client: concurrent requests, pictures per minute, and the event loop's time for messages.

A share is whatever counts as one client. Does not know about keys and HTTP.
"""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from app.errors import RateLimited

_ROUNDING_S = 1e-6
_LOOP_PAUSE = 3.0
"""Seconds of pause for each second on the event loop."""
_MESSAGE_S = 0.0002
"""What a message takes there apart from its parsing: its frame, two hand-overs between tasks, a short reply."""
_LEAST_PAUSE_S = 0.005
_MANY = 10_000
"""Beyond this number of remembered shares, those with a full bucket are dropped: addresses are unlimited."""


class InFlight:
    """At most `limit` concurrent requests of one share; 0 for any number."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[str, int] = {}

    @contextmanager
    def request(self, share: str) -> Iterator[None]:
        """Count a request while the block runs. Raises RateLimited if that exceeds the limit."""
        held = self._held.get(share, 0)
        if self._limit and held >= self._limit:
            raise RateLimited(
                f"You have {held} requests in flight, which is the limit (SAM2_RATE_REQUESTS_IN_FLIGHT). "
                "Wait until one of them is answered.",
                retry_after_s=1,
            )
        self._held[share] = held + 1
        try:
            yield
        finally:
            self._held[share] -= 1
            if not self._held[share]:
                del self._held[share]


class PicturesPerMinute:
    """A token bucket for each share: it holds up to `limit` tokens and gains `limit` per minute. 0: no limit.

    So a share that was idle for a minute may embed the pictures of a whole minute at once.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        # By share: when its bucket is full again. This number is the bucket's whole state (the "generic cell rate
        # algorithm" of ATM), and times in the past need not be kept.
        self._full_at: dict[str, float] = {}

    def take(self, share: str, count: int = 1) -> None:
        """Count pictures. Raises RateLimited with the seconds after which the same call succeeds.

        More at once than a minute's are let through by a full bucket: otherwise they never would be.
        """
        if not self._limit:
            return
        now = monotonic()
        a_token_s = 60 / self._limit
        full_at = max(self._full_at.get(share, now), now) + count * a_token_s
        wait_s = full_at - now - max(60.0, count * a_token_s)
        if wait_s > _ROUNDING_S:
            raise self.refusal(wait_s)
        if len(self._full_at) >= _MANY:
            self._full_at = {share: at for share, at in self._full_at.items() if at > now}
        self._full_at[share] = full_at

    def refusal(self, wait_s: float) -> RateLimited:
        """Return the error of a call that succeeds after `wait_s` seconds."""
        return RateLimited(
            f"You have sent more than {self._limit:g} new pictures a minute (SAM2_RATE_PICTURES_PER_MINUTE).",
            retry_after_s=max(1, math.ceil(wait_s)),
        )


class LoopTime:
    """Time of the event loop that each client's messages take: at most a quarter, however fast they come.

    A message is noted when it has been handled, and its pause is kept before the next one is read: TCP then slows
    its sender down. Skipped prompts count like all others.
    """

    def __init__(self) -> None:
        self._free_at: dict[str, float] = {}

    def note(self, share: str, seconds: float) -> None:
        """Add what a message took on the event loop. `seconds` need not include reading its frame and a reply."""
        now = monotonic()
        if len(self._free_at) > _MANY:
            self._free_at = {share: at for share, at in self._free_at.items() if at > now}
        begins = max(now, self._free_at.get(share, 0.0))
        self._free_at[share] = begins + _LOOP_PAUSE * (seconds + _MESSAGE_S)

    async def wait(self, share: str) -> None:
        """Wait until the pauses for the client's messages are over; not for moments that no timer can keep."""
        pause = self._free_at.get(share, 0.0) - monotonic()
        if pause > _LEAST_PAUSE_S:
            await asyncio.sleep(pause)
