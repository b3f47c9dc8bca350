"""The periodic maintenance of stored videos, which no request does. Does not know what is in them."""

import asyncio

from app.service.open_videos import OpenVideos
from app.storage.kept_videos import KeptVideos
from app.storage.registers import NameRegister
from app.storage.upkeep import Upkeep

_TRIM_EVERY = 60
"""Runs between two that count the files, and write those that the disk did not take."""


class VideoUpkeep:
    """Writes uses, removes old names, and closes decoders that nobody uses, or whose video is deleted."""

    def __init__(self, register: NameRegister, open_videos: OpenVideos, files: KeptVideos) -> None:
        self._register, self._open_videos, self._files = register, open_videos, files
        self._upkeep = Upkeep(self._tend_in_turn, "the stored videos")
        self._runs = 0

    def start(self) -> None:
        """Begin to do it every second."""
        self._files.spare_named(self._register.while_named)
        self._upkeep.start()

    async def stop(self) -> bool:
        """End it. Returns whether it had been started."""
        return await self._upkeep.stop()

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

    async def _tend_in_turn(self) -> None:
        runs, self._runs = self._runs, self._runs + 1
        await self.tend(count_files=runs % _TRIM_EVERY == 0)

    def _tend(self, gone: frozenset[str], *, count_files: bool) -> None:
        for content in gone:
            self._open_videos.forget(content)
        self._open_videos.tend()
        if count_files:
            self._files.trim()
