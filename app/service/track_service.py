"""What routes ask of tracks, whether objects are followed in this process or in others.

Does not know who follows them.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from app.codecs.answers import MaskOptions
from app.segmenter import Corrections, TrackerKind
from app.service.track_values import FrameAnswer, Frames, Range, TrackInfo, TrackPromptRequest
from app.telemetry.stages import StageTimes


class TrackService(Protocol):
    """The tracks of all tenants, who see only their own. tracks.py says what each method raises."""

    @property
    def kind(self) -> TrackerKind:
        """How objects are followed."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of what is remembered of one object on one frame."""

    async def add(
        self, frames: Frames, *, tenant: str, track_id: str | None, corrections: Corrections, share: str
    ) -> TrackInfo:
        """Begin a track."""

    async def describe(self, track_id: str, *, tenant: str) -> TrackInfo:
        """Return what is known of a track."""

    async def newest(self, *, tenant: str, limit: int, after: str | None) -> list[TrackInfo]:
        """Return at most `limit` tracks that follow `after`, newest first."""

    async def delete(self, track_id: str, *, tenant: str) -> None:
        """Forget a track, also while it is propagated."""

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
        """Say where an object is; returns all objects on that frame."""

    async def remove_object(self, track_id: str, object_id: int, *, tenant: str, share: str) -> None:
        """Forget an object, and all prompts of it."""

    async def clear_prompts(
        self, track_id: str, object_id: int, frame: int, *, tenant: str, share: str
    ) -> str | None:
        """Take an object's prompts on a frame back; returns a sentence if the object is dropped by it."""

    def propagate(
        self,
        track_id: str,
        wanted: Range,
        *,
        options: MaskOptions,
        non_overlapping: bool,
        tenant: str,
        share: str,
    ) -> AsyncGenerator[FrameAnswer, None]:
        """Yield all objects on each frame, in the order of the work. Ends early where the caller closes it."""

    def propagate_once(
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
        """As `propagate`, on a track that nobody else sees and of which nothing is left."""
