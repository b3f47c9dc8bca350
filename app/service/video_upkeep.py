"""The periodic maintenance of stored videos, which no request does. Does not know what is in them."""

import asyncio
import logging

from app.service.open_videos import OpenVideos
from app.storage.kept_videos import KeptVideos
from app.storage.registers import NameRegister
from app.storage.store import TEND_S

log = logging.getLogger(__name__)

_TRIM_EVERY = 60
"""Runs between two that count the files, and write those that the disk did not take."""


class VideoUpkeep:
    """Writes uses, removes old names, and closes decoders that nobody uses, or whose video is deleted."""

    def __init__(self, register: NameRegister, open_videos: OpenVideos, files: KeptVideos) -> None:
        self._register, self._open_videos, self._files = register, open_videos, files
        self._tending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to do it every second."""
        self._files.spare_named(self._register.while_named)
        self._tending = asyncio.create_task(self._tend_for_good())

    async def stop(self) -> bool:
        """End it. Returns whether it had been started."""
        if self._tending is None:
            return False
        tending, self._tending = self._tending, None
        tending.cancel()
        await asyncio.wait([tending])
        return True

    async def tend(self, *, count_files: bool = True) -> None:
        """Do it once."""
        await self._register.tend()
        gone = await self._register.expire()
        if await self._register.changed_elsewhere():  # who deletes there cannot close what is open here
            gone |= await self._register.unnamed(self._open_videos.contents())
        self._files.retry()
        if count_files:
            await self._files.write_held(self._register.while_named)
        await asyncio.to_thread(self._tend, gone, count_files=count_files)

    async def _tend_for_good(self) -> None:
        runs = 0
        while True:
            await asyncio.sleep(TEND_S)
            try:
                await self.tend(count_files=runs % _TRIM_EVERY == 0)
            except Exception:  # otherwise maintenance would stop, and nobody would notice
                log.exception("Maintenance of the stored videos failed; it continues.")
            runs += 1

    def _tend(self, gone: frozenset[str], *, count_files: bool) -> None:
        for content in gone:
            self._open_videos.forget(content)
        self._open_videos.tend()
        if count_files:
            self._files.trim()
