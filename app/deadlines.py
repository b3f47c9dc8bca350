"""The longest time that a request may take.

Knows nothing of what is done in it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import DeadlineExceeded


@asynccontextmanager
async def within(deadline_s: float) -> AsyncIterator[None]:
    """Give up what takes longer. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(deadline_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"No answer within {deadline_s:g} s (SAM2_DEADLINE_S); the server is busy."
        ) from error
