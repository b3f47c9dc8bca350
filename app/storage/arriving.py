"""What another server has just named: a name is known everywhere a moment before its embedding can be read.

Does not know where either is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

from app.storage.register_file import ImageName

T = TypeVar("T")

YOUNG_S = 5.0
"""Age of a name up to which its embedding may still be on its way."""

WAIT_S = 2.0
"""Longest wait. An embedding is written within a second after the reply to its upload."""

_PAUSE_S = 0.05
"""Before the second look; doubled for each further one."""


async def arrived(
    name: ImageName, find: Callable[[str], Awaitable[T | None]], *, now: Callable[[], float]
) -> T | None:
    """Return what `find` has for the content of a name. While that is nothing and the name is young, look again."""
    end, pause_s = monotonic() + WAIT_S, _PAUSE_S
    # Neither is a name young that was given by a clock that has been set back since.
    while (found := await find(name.content)) is None and abs(now() - name.created) < YOUNG_S:
        if monotonic() + pause_s > end:
            break
        await asyncio.sleep(pause_s)
        pause_s *= 2
    return found
