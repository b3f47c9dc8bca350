"""Videos in a Front: each has a Device, by tenant and name, in which its decoder stays open.

Another one reads the file from the folder that all share. Does not know the engine.
"""

import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeAlias, cast

from app.cluster.asking import ASKED_AT_MOST, Ask
from app.cluster.keys import of_video
from app.cluster.parts import PART_BYTES, InParts
from app.codecs.picture_files import PictureKind
from app.codecs.video_times import Sampling
from app.errors import NotReady
from app.scheduling.shares import Workers
from app.service.named_videos import NamedVideo, checked_digest
from app.storage.register_file import ImageName
from app.telemetry.stages import StageTimes

Deadline: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


class RemoteVideos:
    """A VideoService."""

    def __init__(self, ask: Ask, workers: Workers, *, deadline: Deadline) -> None:
        self._ask, self._workers, self._deadline = ask, workers, deadline

    async def add(
        self,
        data: bytes,
        sampling: Sampling,
        *,
        tenant: str,
        video_id: str | None,
        replace: bool,
        times: StageTimes,
        share: str,
    ) -> NamedVideo:
        """Keep a video file. If its Device dies meanwhile, all of it is sent to another one."""
        async with self._deadline():
            name = video_id
            if name is None:
                with times.during("hash"):
                    digest = await self._workers.run(partial(checked_digest, data), share=share)
                name = Sampling.of_words(sampling.words).video_id(digest)
            key = of_video(name, tenant)
            for _ in range(ASKED_AT_MOST):
                sent = await self._sent(key, data)
                if sent is None:
                    continue
                found: NamedVideo | None = await self._ask(
                    key,
                    "videos.add",
                    times,
                    data=sent,
                    sampling=sampling,
                    tenant=tenant,
                    video_id=video_id,
                    replace=replace,
                    share=share,
                )
                if found is not None:
                    return found
            what = (
                "The devices that were sent this video are gone; others are being started. Try again later."
            )
            raise NotReady(what, retry_after_s=5)

    async def describe(self, video_id: str, *, tenant: str, share: str) -> NamedVideo:
        """Return what is known of a video."""
        key = of_video(video_id, tenant)
        found = await self._ask(key, "videos.describe", video_id=video_id, tenant=tenant, share=share)
        return cast(NamedVideo, found)

    async def newest(self, *, tenant: str, limit: int, after: str | None) -> list[ImageName]:
        """Return at most `limit` names. Any Device knows all."""
        found = await self._ask("", "videos.newest", tenant=tenant, limit=limit, after=after)
        return cast(list[ImageName], found)

    async def delete(self, video_id: str, *, tenant: str, share: str) -> None:
        """Forget a video. Its upload goes to the same Device, so it is found there."""
        key = of_video(video_id, tenant)
        await self._ask(key, "videos.delete", video_id=video_id, tenant=tenant, share=share)

    async def frame(
        self, video_id: str, number: int, kind: PictureKind, *, tenant: str, times: StageTimes, share: str
    ) -> bytes:
        """Return a frame as a file."""
        found = await self._ask(
            of_video(video_id, tenant),
            "videos.frame",
            times,
            video_id=video_id,
            number=number,
            kind=kind,
            tenant=tenant,
            share=share,
        )
        return cast(bytes, found)

    async def frame_id(self, video_id: str, number: int, *, tenant: str, share: str) -> str:
        """Return the image id of a frame, embedded or not."""
        key = of_video(video_id, tenant)
        found = await self._ask(
            key, "videos.frame_id", video_id=video_id, number=number, tenant=tenant, share=share
        )
        return cast(str, found)

    async def _sent(self, key: str, data: bytes) -> bytes | InParts | None:
        """Return what stands for a file in a call; None if the Device that had its first parts is gone."""
        if len(data) <= PART_BYTES:
            return data
        number = uuid.uuid4().hex
        for offset in range(0, len(data), PART_BYTES):
            part = data[offset : offset + PART_BYTES]
            if not await self._ask(key, "part", number=number, offset=offset, data=part):
                return None
        return InParts(number, len(data))
