"""What happens where the device has no place for an embedding: the coldest one leaves, and a client waits last.

A GPU's memory is divided into a fixed number of places. The store keeps no more embeddings there than that, but one
that is on its way out, or that prompts wait for, holds its place until it is let go. Knows nothing of tensors.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.errors import DeviceFull
from model.errors import NoFreeSlot

T = TypeVar("T")


def naming_full(run: Callable[[], T]) -> T:
    """Run something on the device thread. Raises DeviceFull, which says to come again, where it has no place."""
    try:
        return run()
    except NoFreeSlot as error:
        raise DeviceFull(f"{error} Try again; SAM2_DEVICE_CACHE_MIB sets how many there are.") from error


async def with_room(attempt: Callable[[], Awaitable[T]], *, make_room: Callable[[], Awaitable[bool]]) -> T:
    """Try until there is a place. Raises DeviceFull where nothing is left to leave, and what `attempt` does.

    `make_room` lets the coldest embedding leave the device, and is false where there is none.
    """
    while True:
        try:
            return await attempt()
        except DeviceFull:
            if not await make_room():
                raise
