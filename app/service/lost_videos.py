"""What goes with a video that has lost its last name: its decoder, its file, and the embeddings of its frames.

Does not know how names are given and taken.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Protocol

from app.codecs.video_files import Video
from app.errors import ImageTooLarge, InvalidVideo, ValidationFailed, VideoNotFound, VideoTooLarge
from app.scheduling.shares import Workers
from app.service.named_videos import file_digest, frame_ids
from app.service.open_videos import OpenVideos
from app.storage.kept_videos import KeptVideos
from app.storage.register_file import ImageName
from app.storage.registers import NameRegister
from app.storage.store import EmbeddingStore

log = logging.getLogger(__name__)

_UNREADABLE = (VideoNotFound, InvalidVideo, ValidationFailed, ImageTooLarge, VideoTooLarge)
"""Errors of a kept file that was evicted, or that stricter limits refuse now: then its frames are not known."""


class Survey(Protocol):
    """Finds what is known of a video."""

    def __call__(self, video_id: str, content: str, *, share: str) -> Awaitable[Video]: ...


class LostVideos:
    """Forgets them. `store` returns the embeddings of images."""

    def __init__(
        self,
        survey: Survey,
        workers: Workers,
        register: NameRegister,
        files: KeptVideos,
        open_videos: OpenVideos,
        *,
        store: Callable[[], EmbeddingStore],
    ) -> None:
        self._survey, self._workers, self._store = survey, workers, store
        self._register, self._files, self._open_videos = register, files, open_videos

    async def frames_of(self, row: ImageName | None, *, share: str) -> dict[str, list[str]]:
        """Return the image ids of a video's frames by its content, as long as its file is there to tell."""
        return {row.content: await self._frames(row.image_id, row.content, share=share)} if row else {}

    async def forget(
        self, lost: Collection[str], frames: Mapping[str, Collection[str]], *, tenant: str, share: str
    ) -> None:
        """Forget contents without a name, and those of their `frames` that no other video of their file has.

        To its end even if the request goes away: nobody else knows what was lost.
        """
        if lost:
            forgetting = asyncio.create_task(self._forget(lost, frames, tenant=tenant, share=share))
            forgetting.add_done_callback(_hear)
            await asyncio.shield(forgetting)

    async def _forget(
        self, lost: Collection[str], frames: Mapping[str, Collection[str]], *, tenant: str, share: str
    ) -> None:
        for content in lost:
            self._open_videos.forget(content)
            await self._files.wait_removed(content)
            shared = set[str]()
            for other in self._register.contents(tenant=tenant, beginning=file_digest(content)):
                shared.update(await self._frames("", other, share=share))
            gone = [each for each in frames.get(content, ()) if each not in shared]
            await self._store().delete_all(gone, tenant=tenant)

    async def _frames(self, video_id: str, content: str, *, share: str) -> list[str]:
        try:
            video = await self._survey(video_id, content, share=share)
            return await self._workers.run(partial(frame_ids, content, video), share=share)
        except _UNREADABLE:
            return []
        except OSError as error:  # of a failing disk, which must not keep a name
            log.warning("A video that is not needed any more cannot be read, so its frames stay: %s", error)
            return []


def _hear(forgetting: asyncio.Task[None]) -> None:
    """See the error of one whose request has gone away."""
    if not forgetting.cancelled() and (error := forgetting.exception()) is not None:
        log.warning("The frames of a video that is not needed any more stay: %s", error)
