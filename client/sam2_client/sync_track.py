"""Video and Track: a stored video and objects that are followed through frames, of Client.

Only sends. track_stories.py and following.py define what is sent and what replies mean.
"""

from collections.abc import Generator
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
    from sam2_client.client import Client


class Video(KnownVideo):
    """A video that the server has stored."""

    def __init__(self, stored: StoredVideo, client: "Client") -> None:
        super().__init__(stored)
        self._client = client

    def frame(self, index: int) -> Image.Image:
        """Return a frame in RGB, upright and with square pixels. Raises FrameNotFound and InvalidFrame."""
        story = track_stories.frame_file(self._stored, index, retries=self._client._retries)
        return self._client._tell(story).open()

    def delete(self) -> None:
        """Delete the video and the embeddings of its frames. Succeeds also if the server does not have it."""
        self._client._tell(track_stories.delete_video(self.video_id, retries=self._client._retries))


class Track(KnownTrack):
    """Objects that are followed through frames. `with` deletes it at the end.

    If the track expires or the server restarts, the client begins it anew with its own prompts, and uploads the
    video or pictures again. It cannot do so for a track that `find_track` returned.
    """

    def __init__(self, state: TrackState, client: "Client") -> None:
        super().__init__(state)
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._client._tell(track_stories.leave(self._state, kind, retries=self._client._retries))

    def click(
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
        """Say where an object is on a frame, by clicks, a box, or a mask. Returns all objects on that frame.

        `object` is your own number for it: a new number is a new object. Clicks and a box add to those that the
        object has on the frame; `clear` replaces them, and a box needs it where there are any. A mask is a prompt
        of its own, and an empty one says that the object is not here. A Mask is used as it is, without its logits.
        `non_overlapping` gives each pixel to one object. `max_hole_area` and `max_sprinkle_area` are as in
        Image.decode. On a frame that was tracked before, this is a correction.
        """
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
        return self._client._tell(story)

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
    ) -> Generator[TrackedFrame, None, None]:
        """Follow the objects: yields each frame when it is done, with the masks of all objects.

        `start` and `end` are included. Without `start` it begins at the earliest frame with a prompt or, if a
        propagation was left and no prompt has changed since, where that one was. `both` goes forward, then backward
        from the frame before the start. Leave the loop to stop: what is done is kept. `progress` shows a bar on
        standard error. The other options are as in `click`.

        A frame that cannot be read has an `error` and no masks, and the next ones follow. If the connection breaks,
        the client goes on where it was. If the server has lost the track meanwhile, the frames before are tracked
        once more, but not yielded again. Raises Sam2Error if that fails too.
        """
        shown = track_stories.shown_to_wire(max_hole_area, max_sprinkle_area, non_overlapping=non_overlapping)
        story = following.follow(
            self._state,
            Span(start, end, direction),
            options=shown,
            progress=progress,
            retries=self._client._retries,
        )
        return self._client._follow(story)

    def remove(self, object: int) -> None:  # noqa: A002
        """Forget an object and its prompts. Succeeds also if the track does not have it."""
        self._client._tell(track_stories.remove(self._state, object, retries=self._client._retries))

    def clear(self, *, frame: int, object: int = 1) -> str | None:  # noqa: A002
        """Take an object's prompts on a frame back. Returns a sentence if it has no other, and so is dropped."""
        story = track_stories.clear(self._state, object, frame, retries=self._client._retries)
        return self._client._tell(story)

    def prompts(self) -> dict[int, list[int]]:
        """Look up the objects of the track, each with the frames on which it has prompts."""
        story = track_stories.prompted(self._state, retries=self._client._retries)
        return self._client._tell(story)

    def picture(self, index: int) -> Image.Image:
        """Return a frame in RGB. Raises ValueError for a picture of which the client knows only the id."""
        story = track_stories.picture_file(self._state, index, retries=self._client._retries)
        return self._client._tell(story).open()

    def delete(self) -> None:
        """Forget the track. Its video or pictures stay. Succeeds also if the server does not have it."""
        self._client._tell(track_stories.delete(self._state, retries=self._client._retries))
