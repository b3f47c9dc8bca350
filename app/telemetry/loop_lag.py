"""How long the event loop stands still, in which time nothing is read or answered. Does not know what blocks it."""

import asyncio
from collections.abc import Callable

INTERVAL_S = 0.02
"""Between two looks. A loop that stands still for longer is seen, up to so much less of it."""


async def watch_loop(observe: Callable[[float], None]) -> None:
    """Report the delay of a timer on this loop, in seconds, again and again until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        observe(max(0.0, loop.time() - due))
