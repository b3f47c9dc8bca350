"""When to retry, and how long to wait before.

Every call of the service can be repeated safely: embedding the same content gives the same result, decoding changes
nothing, and deleting twice is the same as once. Clicks on a track add to those before, so they are repeated as all
clicks in place of those before. Does not know how to wait.
"""

import random
from dataclasses import dataclass

import numpy as np

from sam2_client.errors import ConnectionFailed, RateLimited, Sam2Error

FIRST_WAIT_S = 0.25
"""Used if the server sends no Retry-After; doubled with each retry."""
LONGEST_WAIT_S = 30.0
"""If the server requests a longer wait, the call fails instead of waiting."""
JITTER = 0.25
"""At most this fraction of a wait is added at random, so that many clients do not retry at the same moment."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is retried: after status 429 or 503, or if the server cannot be reached (502)."""

    most: int

    def __post_init__(self) -> None:
        most: object = self.most
        if isinstance(most, bool) or not isinstance(most, int | np.integer) or most < 0:
            raise ValueError(f"retries is {most!r}, but must be a whole number of at least 0")

    def wait_s(self, failure: Sam2Error, *, tried: int) -> float | None:
        """Return the seconds to wait after attempt `tried` (from 1) failed; None if there is no further retry."""
        if not (failure.status in (429, 502, 503) or isinstance(failure, ConnectionFailed)):
            return None
        return self.pause_s(tried, asked_s=failure.retry_after_s)

    def pause_s(self, tried: int, *, asked_s: float | None = None) -> float | None:
        """Return the seconds to wait after attempt `tried` failed, whatever its failure, as `wait_s` does."""
        wait = min(FIRST_WAIT_S * 2 ** (tried - 1), LONGEST_WAIT_S) if asked_s is None else asked_s
        if tried > self.most or wait > LONGEST_WAIT_S:
            return None
        return wait * (1 + JITTER * random.random())  # noqa: S311  # not for security


def turn_s(refusal: RateLimited) -> float:
    """Return the seconds after which a client that is over its limits may ask again, however many they are."""
    asked_s = FIRST_WAIT_S if refusal.retry_after_s is None else refusal.retry_after_s
    return asked_s * (1 + JITTER * random.random())  # noqa: S311  # not for security
