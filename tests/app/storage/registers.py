"""Registers for tests, and rows for them."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.storage.disk_trouble import DiskTrouble
from app.storage.register import Register
from app.storage.register_file import ImageName
from app.storage.registers import NameRegister
from app.storage.sharing import Sharing

A, B = "a" * 64, "b" * 64
"""Two contents."""


def name(image_id: str, content: str = A, *, tenant: str = "", created: float | None = None) -> ImageName:
    """A row of the register."""
    moment = time.time() if created is None else created
    return ImageName(tenant, image_id, content, 40, 60, 1000, created=moment, used=moment)


def ids(register: NameRegister) -> list[str]:
    """The names of no tenant that a register has."""
    return sorted(each.image_id for each in register.newest(tenant="", limit=999, after=None))


@asynccontextmanager
async def opened(
    place: Path | str | None, *, ttl_s: float = 0, unnamed: list[str] | None = None
) -> AsyncIterator[NameRegister]:
    """A register that is open until the block ends: in a folder, in memory, or in PostgreSQL by its URL."""
    heard = unnamed if unnamed is not None else []
    if isinstance(place, str):
        sharing = Sharing(place)
        await sharing.open()
        shared = sharing.register("image", ttl_s=ttl_s, on_unnamed=heard.append)
        await shared.open()
        try:
            yield shared
        finally:
            await shared.close()
            await sharing.close()
        return
    folder = place
    trouble = DiskTrouble(folder) if folder is not None else None
    register = Register(folder, ttl_s=ttl_s, trouble=trouble, on_unnamed=heard.append)
    await register.open()
    try:
        yield register
    finally:
        await register.close()
