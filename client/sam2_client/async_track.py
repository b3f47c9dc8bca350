"""AsyncVideo and AsyncTrack: a stored video and objects that are followed through frames, of AsyncClient.

Only sends. track_stories.py and following.py define what is sent and what replies mean.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Self

from PIL import Image

from sam2_client import following, track_stories
from sam2_client.known_tracks import KnownTrack
from sam2_client.mending import TrackState
from sam2_client.prompts import Box, Labels, MaskPrompt, Points, Prompt
from sam2_client.spans import Direction, Span
from sam2_client.track_sources import KnownVideo, StoredVideo
from sam2_client.tracked import TrackedFrame

if TYPE_CHECKING:
    from sam2_client.async_client import AsyncClient


class AsyncVideo(KnownVideo):
    """A video that the server has stored: Video with `await`."""

    def __init__(self, stored: StoredVideo, client: "AsyncClient") -> None:
        super().__init__(stored)
        self._client = client

    async def frame(self, index: int) -> Image.Image:
        """See Video.frame."""
        story = track_stories.frame_file(self._stored, index, retries=self._client._retries)
        return await asyncio.to_thread((await self._client._tell(story)).open)

    async def delete(self) -> None:
        """See Video.delete."""
        await self._client._tell(track_stories.delete_video(self.video_id, retries=self._client._retries))


class AsyncTrack(KnownTrack):
    """Objects that are followed through frames: Track with `await`, and `async for` over propagations."""

    def __init__(self, state: TrackState, client: "AsyncClient") -> None:
        super().__init__(state)
        self._client = client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._client._tell(track_stories.leave(self._state, kind, retries=self._client._retries))

    async def click(
        self,
        points: Points | None = None,
        labels: Labels | None = None,
        *,
        frame: int = 0,
        object: int = 1,  # noqa: A002  # as on the wire
        box: Box | None = None,
        mask: MaskPrompt | None = None,
        clear: bool = False,
        non_overlapping: bool = False,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> TrackedFrame:
        """See Track.click."""
        shown = track_stories.shown_to_wire(max_hole_area, max_sprinkle_area, non_overlapping=non_overlapping)
        story = track_stories.prompt(
            self._state,
            Prompt(points=points, labels=labels, box=box, mask=mask),
            frame=frame,
            object_id=object,
            clear=clear,
            options=shown,
            retries=self._client._retries,
        )
        return await self._client._tell(story)

    def propagate(
        self,
        start: int | None = None,
        end: int | None = None,
        direction: Direction = "forward",
        *,
        non_overlapping: bool = False,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        progress: bool = False,
    ) -> AsyncGenerator[TrackedFrame, None]:
        """See Track.propagate. To stop at once, leave the loop within contextlib.aclosing."""
        shown = track_stories.shown_to_wire(max_hole_area, max_sprinkle_area, non_overlapping=non_overlapping)
        story = following.follow(
            self._state,
            Span(start, end, direction),
            options=shown,
            progress=progress,
            retries=self._client._retries,
        )
        return self._client._follow(story)

    async def remove(self, object: int) -> None:  # noqa: A002
        """See Track.remove."""
        await self._client._tell(track_stories.remove(self._state, object, retries=self._client._retries))

    async def clear(self, *, frame: int, object: int = 1) -> str | None:  # noqa: A002
        """See Track.clear."""
        story = track_stories.clear(self._state, object, frame, retries=self._client._retries)
        return await self._client._tell(story)

    async def prompts(self) -> dict[int, list[int]]:
        """See Track.prompts."""
        story = track_stories.prompted(self._state, retries=self._client._retries)
        return await self._client._tell(story)

    async def picture(self, index: int) -> Image.Image:
        """See Track.picture."""
        story = track_stories.picture_file(self._state, index, retries=self._client._retries)
        return await asyncio.to_thread((await self._client._tell(story)).open)

    async def delete(self) -> None:
        """See Track.delete."""
        await self._client._tell(track_stories.delete(self._state, retries=self._client._retries))
