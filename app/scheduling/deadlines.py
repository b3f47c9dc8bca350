"""The deadline of a request: the longest time it may take, and how much of it is left.

Does not know what a request does.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from app.errors import DeadlineExceeded

_due: ContextVar[float] = ContextVar("due", default=math.inf)


@asynccontextmanager
async def within(deadline_s: float, setting: str = "SAM2_DEADLINE_S") -> AsyncIterator[None]:
    """Cancel the block after `deadline_s` seconds and raise DeadlineExceeded, which names the setting.

    If the block is nested in another one that ends earlier, the earlier deadline counts.
    """
    due = min(_due.get(), asyncio.get_running_loop().time() + deadline_s)
    token = _due.set(due)
    try:
        async with asyncio.timeout_at(due):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"No answer within {deadline_s:g} s ({setting}): the server is busy, or this is too much for one "
            "request. Try again later, or ask for less."
        ) from error
    finally:
        _due.reset(token)


def left_s() -> float:
    """Return the seconds until the enclosing `within` block is cancelled; infinite outside of one."""
    return _due.get() - asyncio.get_running_loop().time()
