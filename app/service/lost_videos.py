"""What goes with a video that has lost its last name: its decoder, its file, and the embeddings of its frames.

Does not know how names are given and taken.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
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
        """Forget contents without a name, and those of their `frames` that no other video of their file has."""
        for content in lost:
            self._open_videos.forget(content)
            await self._files.wait_removed(content)
            shared = set[str]()
            for other in self._register.contents(tenant=tenant, beginning=file_digest(content)):
                shared.update(await self._frames("", other, share=share))
            gone = [each for each in frames.get(content, ()) if each not in shared]
            await self._store().delete_all(gone, tenant=tenant)

    async def _frames(self, video_id: str, content: str, *, share: str) -> list[str]:
        with suppress(*_UNREADABLE):
            video = await self._survey(video_id, content, share=share)
            return await self._workers.run(partial(frame_ids, content, video), share=share)
        return []
