"""The longest time that a request may take, and what is left of it.

Knows nothing of what is done in it.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from app.errors import DeadlineExceeded

_due: ContextVar[float] = ContextVar("due", default=math.inf)


@asynccontextmanager
async def within(deadline_s: float) -> AsyncIterator[None]:
    """Give up what takes longer; within another one that ends earlier, what takes longer than that.

    Raises DeadlineExceeded.
    """
    due = min(_due.get(), asyncio.get_running_loop().time() + deadline_s)
    token = _due.set(due)
    try:
        async with asyncio.timeout_at(due):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"No answer within {deadline_s:g} s (SAM2_DEADLINE_S); the server is busy."
        ) from error
    finally:
        _due.reset(token)


def left_s() -> float:
    """Seconds until the block of `within` that this runs in is given up; infinite outside of any."""
    return _due.get() - asyncio.get_running_loop().time()
