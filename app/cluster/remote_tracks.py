"""Tracks in a Front: each belongs to one Device, by tenant and name, which follows its objects.

A Device that is asked for the first time makes the track again from its prompts, where they are kept. Does not know
the engine.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from app.cluster.asking import Ask, Follow
from app.cluster.keys import of_one_call, of_track
from app.cluster.watch import Watch
from app.codecs.answers import MaskOptions
from app.errors import ImageNotFound, VideoNotFound
from app.segmenter import Corrections, TrackerKind
from app.service.track_values import FrameAnswer, Frames, Range, TrackInfo, TrackPromptRequest
from app.telemetry.stages import StageTimes
from app.track_errors import TrackNotFound

_DESCRIBED_AT_A_TIME = 16
_APART = (
    "These devices share no folder, so each has only the pictures, videos and tracks that it was sent itself: set "
    "SAM2_CACHE_DIR to a folder that all of them see (cache_dir under args), or SAM2_CACHE_URL."
)


class RemoteTracks:
    """A TrackService."""

    def __init__(self, ask: Ask, follow: Follow, watch: Watch) -> None:
        self._ask, self._follow, self._watch = ask, follow, watch

    @property
    def kind(self) -> TrackerKind:
        """How objects are followed."""
        return self._watch.model().tracker

    @property
    def frame_bytes(self) -> int:
        """Bytes of what is remembered of one object on one frame."""
        return self._watch.model().track_frame_bytes

    async def add(
        self, frames: Frames, *, tenant: str, track_id: str | None, corrections: Corrections, share: str
    ) -> TrackInfo:
        """Begin a track. It has its name before it is asked for, and a mark, so that it may be asked for again."""
        name = track_id or uuid.uuid4().hex
        found = await self._of(
            name,
            "add",
            frames=frames,
            tenant=tenant,
            corrections=corrections,
            share=share,
            mark=uuid.uuid4().hex,
        )
        return cast(TrackInfo, found)

    async def describe(self, track_id: str, *, tenant: str) -> TrackInfo:
        """Return what is known of a track."""
        found = await self._of(track_id, "describe", tenant=tenant)
        return cast(TrackInfo, found)

    async def newest(self, *, tenant: str, limit: int, after: str | None) -> list[TrackInfo]:
        """Return at most `limit` tracks. Any Device knows all; what is done, the one of the track says."""
        found: list[TrackInfo] = await self._ask("", "tracks.newest", tenant=tenant, limit=limit, after=after)
        turns = asyncio.Semaphore(_DESCRIBED_AT_A_TIME)

        async def described(info: TrackInfo) -> TrackInfo | None:
            if not info.objects:  # nothing has been done
                return info
            async with turns:
                try:
                    return await self.describe(info.track_id, tenant=tenant)
                except TrackNotFound:  # deleted meanwhile
                    return None

        infos = await asyncio.gather(*map(described, found))
        return [info for info in infos if info is not None]

    async def delete(self, track_id: str, *, tenant: str) -> None:
        """Forget a track, also while it is propagated."""
        await self._of(track_id, "delete", tenant=tenant)

    async def prompt(
        self,
        track_id: str,
        request: TrackPromptRequest,
        *,
        options: MaskOptions,
        non_overlapping: bool,
        tenant: str,
        times: StageTimes,
        share: str,
    ) -> FrameAnswer:
        """Say where an object is. With its mark, it may be asked again and counts once."""
        found = await self._of(
            track_id,
            "prompt",
            times,
            request=replace(request, mark=uuid.uuid4().hex),
            options=options,
            non_overlapping=non_overlapping,
            tenant=tenant,
            share=share,
        )
        return cast(FrameAnswer, found)

    async def remove_object(self, track_id: str, object_id: int, *, tenant: str, share: str) -> None:
        """Forget an object, and all prompts of it."""
        await self._of(track_id, "remove_object", object_id=object_id, tenant=tenant, share=share)

    async def clear_prompts(
        self, track_id: str, object_id: int, frame: int, *, tenant: str, share: str
    ) -> str | None:
        """Take an object's prompts on a frame back. Asked again, it doesn't say if the object is dropped."""
        note = await self._of(
            track_id, "clear_prompts", object_id=object_id, frame=frame, tenant=tenant, share=share
        )
        return cast(str | None, note)

    async def propagate(
        self,
        track_id: str,
        wanted: Range,
        *,
        options: MaskOptions,
        non_overlapping: bool,
        tenant: str,
        share: str,
    ) -> AsyncGenerator[FrameAnswer, None]:
        """Yield all objects on each frame.

        If the Device dies meanwhile, another one goes on where nothing had been followed before; it begins at the
        earliest prompt. Else the memories that it would need are gone: NotReady, which says what to do.
        """
        known = await self.describe(track_id, tenant=tenant)
        found = self._follow(
            of_track(track_id, tenant),
            "tracks.propagate",
            is_anew=wanted.first is None and not known.done,
            track_id=track_id,
            wanted=wanted,
            options=options,
            non_overlapping=non_overlapping,
            tenant=tenant,
            share=share,
        )
        async with aclosing(found):
            async for step in found:
                yield step.opened()

    async def propagate_once(
        self,
        frames: Frames,
        prompts: Sequence[TrackPromptRequest],
        wanted: Range,
        *,
        corrections: Corrections,
        options: MaskOptions,
        non_overlapping: bool,
        tenant: str,
        share: str,
    ) -> AsyncGenerator[FrameAnswer, None]:
        """As `propagate`. All that is needed is in the call, so another Device can always go on."""
        found = self._follow(
            of_one_call(uuid.uuid4().hex),
            "tracks.propagate_once",
            is_anew=True,
            frames=frames,
            prompts=prompts,
            wanted=wanted,
            corrections=corrections,
            options=options,
            non_overlapping=non_overlapping,
            tenant=tenant,
            share=share,
        )
        async with aclosing(found):
            async for step in found:
                yield step.opened()

    async def _of(
        self, track_id: str, method: str, times: StageTimes | None = None, *, tenant: str, **arguments: Any
    ) -> Any:
        key, name = of_track(track_id, tenant), f"tracks.{method}"
        try:
            return await self._ask(key, name, times, track_id=track_id, tenant=tenant, **arguments)
        except (ImageNotFound, VideoNotFound, TrackNotFound) as error:
            if self._watch.are_apart:
                raise type(error)(f"{error.message} {_APART}", details=error.details) from error
            raise
