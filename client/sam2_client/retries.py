"""When to try again, and how long to wait before.

Every call of the service may be made twice: embedding goes by content, decoding changes nothing, and what is
deleted stays so. Does not know how to wait.
"""

import random
from dataclasses import dataclass

from sam2_client.errors import ConnectionFailed, Sam2Error

FIRST_WAIT_S = 0.25
"""Where the server names no time; doubled each time."""
LONGEST_WAIT_S = 30.0
"""A server that asks for more is not waited for."""
JITTER = 0.25
"""The part of a wait that is left to chance, on top, so that many clients do not come back at once."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often one request is tried again: where the server said 429 or 503, or could not be reached."""

    most: int

    def wait_s(self, failure: Sam2Error, *, tried: int) -> float | None:
        """Seconds to wait after try number `tried` failed, counted from 1; None where it was the last."""
        if tried > self.most or not (failure.status in (429, 503) or isinstance(failure, ConnectionFailed)):
            return None
        wait = failure.retry_after_s
        if wait is None:
            wait = min(FIRST_WAIT_S * 2 ** (tried - 1), LONGEST_WAIT_S)
        if wait > LONGEST_WAIT_S:
            return None
        return wait * (1 + JITTER * random.random())  # noqa: S311  # no secret
