"""The frames of tracks: which they are, their one size, and their embeddings.

Does not know about objects.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from app.errors import InvalidFrame, InvalidPrompt, VideoIdConflict
from app.segmenter import Corrections, Segmenter
from app.service.track_state import TrackState
from app.service.track_values import Frames
from app.service.videos import Videos
from app.storage.names import content_key
from app.storage.register_file import ImageName
from app.storage.store import EmbeddingStore
from app.telemetry.stages import StageTimes
from model.types import Embedding

_AT_ONCE = 100
"""Names that are looked up before other requests get a turn: a few milliseconds."""

_AFTER = "after this track was begun, so its prompts and masks are not for it. Begin another track."


class Pictures(Protocol):
    """What tracks ask of the service around them."""

    videos: Videos
    store: EmbeddingStore

    def ready(self) -> Segmenter:
        """Return the model. Raises NotReady and ShuttingDown."""

    async def find(self, image_id: str, *, tenant: str, times: StageTimes, share: str) -> Embedding:
        """Find or make an image's embedding."""


class TrackFrames:
    """Finds frames among images and videos."""

    def __init__(self, service: Pictures, *, most: int, now: Callable[[], float]) -> None:
        self._service, self._most, self._now = service, most, now

    async def survey(
        self, frames: Frames, *, tenant: str, name: str, corrections: Corrections, share: str
    ) -> TrackState:
        """Return a new track of these frames. Raises ImageNotFound, VideoNotFound, and InvalidPrompt."""
        self._service.ready()
        if frames.video_id is not None:
            row = await self._service.videos.find(frames.video_id, tenant=tenant)
            contents = [_hash(row.content)]
            video = await self._service.videos.describe(frames.video_id, tenant=tenant, share=share)
            count, size = video.frames, (video.height, video.width)
        else:
            count = len(frames.image_ids)
            self._check_number(count)
            size, contents = await self._looked_up(frames.image_ids, tenant=tenant)
        self._check_number(count)
        now = self._now()
        state = TrackState(tenant, name, frames, count, *size, corrections, created=now, used=now)
        state.contents = tuple(contents)
        return state

    def _check_number(self, count: int) -> None:
        if count > self._most:
            raise InvalidPrompt(f"{count} frames; a track has {self._most} at most (SAM2_MAX_VIDEO_FRAMES).")

    async def _looked_up(self, image_ids: Sequence[str], *, tenant: str) -> tuple[tuple[int, int], list[str]]:
        """Return the height and width that all images have, and a hash of the content of each.

        Raises ImageNotFound and InvalidPrompt.
        """
        contents = []
        first = await self._service.store.look_up(image_ids[0], tenant=tenant)
        for number, image_id in enumerate(image_ids):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)  # names that are known here are found without waiting
            row = await self._service.store.look_up(image_id, tenant=tenant)
            if (row.height, row.width) != (first.height, first.width):
                raise InvalidPrompt(
                    f"frames[{number}] ({row.image_id!r}) has {row.width} x {row.height} pixels, and frames[0] "
                    f"{first.width} x {first.height}: all frames of a track have one size."
                )
            contents.append(_hash_of(row))
        return (first.height, first.width), contents

    async def embedding(self, state: TrackState, number: int, *, times: StageTimes, share: str) -> Embedding:
        """Return the embedding of a frame, made if need be. Raises what is wrong with the frame.

        An id may be given to another picture or video (replace=true): to follow that one with the prompts of the
        first would be wrong without anybody being told.
        """
        frames, tenant = state.frames, state.tenant
        if frames.video_id is not None:
            video = await self._service.videos.find(frames.video_id, tenant=tenant)
            if state.contents and state.contents[0] != _hash(video.content):
                raise VideoIdConflict(
                    f"video_id {frames.video_id!r} was given to another video, or to this one with other options, "
                    f"{_AFTER}"
                )
            _, embedding = await self._service.videos.embedding(
                frames.video_id, number, tenant=tenant, times=times, share=share
            )
        else:
            picture = await self._service.store.look_up(frames.image_ids[number], tenant=tenant)
            if state.contents and state.contents[number] != _hash_of(picture):
                raise InvalidFrame(
                    f"Frame {number}: image_id {picture.image_id!r} was given to another picture {_AFTER}"
                )
            embedding = await self._service.find(
                frames.image_ids[number], tenant=tenant, times=times, share=share
            )
        if (embedding.height, embedding.width) != (state.height, state.width):
            raise InvalidFrame(
                f"Frame {number} has {embedding.width} x {embedding.height} pixels now, and the track "
                f"{state.width} x {state.height}: its id names another picture. Begin another track."
            )
        return embedding


def _hash(content: str) -> str:
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _hash_of(picture: ImageName) -> str:
    """Empty for an id that is made of the picture, which no other one can have."""
    own = content_key(picture.image_id, tenant=picture.tenant)
    return "" if picture.content == own else _hash(picture.content)
