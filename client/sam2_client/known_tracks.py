"""What both clients know of a track. Does not know about requests."""

from sam2_client.mending import TrackState


class KnownTrack:
    """Objects that are followed through frames."""

    def __init__(self, state: TrackState) -> None:
        self._state = state

    @property
    def track_id(self) -> str:
        """Your own name for the track, or a random one."""
        return self._state.begun.track_id

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self._state.begun.frames

    @property
    def width(self) -> int:
        """Of each frame, in pixels."""
        return self._state.begun.width

    @property
    def height(self) -> int:
        """Of each frame, in pixels."""
        return self._state.begun.height

    @property
    def model(self) -> str:
        """The model that follows."""
        return self._state.begun.model

    @property
    def tracker(self) -> str:
        """How it follows: "memory" for SAM 2's own; "mask_prompt" if each mask is the prompt of the next frame."""
        return self._state.begun.tracker

    def __repr__(self) -> str:
        size = f"{self.width} x {self.height}"
        return f"{type(self).__name__}({self.track_id!r}, {self.frames} frames, {size})"
