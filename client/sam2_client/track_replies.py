"""Converts replies about videos and tracks to objects of this package. Does not know about requests and retries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from sam2_client.error_replies import error_of_line, unexpected
from sam2_client.errors import UnexpectedReply
from sam2_client.pictures import Picture
from sam2_client.replies import UNREADABLE, check_size
from sam2_client.track_sources import StoredVideo
from sam2_client.tracked import TrackedFrame, TrackedMask

_MOST_FRAMES = 500_000
"""The service accepts no more."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A track as the server describes it."""

    track_id: str
    frames: int
    width: int
    height: int
    model: str
    tracker: str
    video_id: str | None = None
    prompted: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Frames with prompts, by object."""
    given: Sequence[dict[str, Any]] = ()
    """The prompts as they were sent, but for the content of masks."""
    done: Sequence[tuple[int, int]] = ()
    """Ranges of frames that were tracked, first and last."""
    forward: int | None = None
    """Where a propagation that was stopped goes on."""
    backward: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


def read_video(response: httpx.Response, file: Picture | None, query: dict[str, str]) -> StoredVideo:
    """Read a video. Raises UnexpectedReply, as all functions here do."""
    try:
        reply = response.json()
        times = tuple(float(time) for time in reply["times"])
        video = StoredVideo(
            video_id=str(reply["video_id"]),
            frames=_count(reply["frames"]),
            width=int(reply["width"]),
            height=int(reply["height"]),
            fps=float(reply["fps"]),
            times=times,
            file=file,
            query=query,
        )
        check_size(video.width, video.height)
        if len(times) != video.frames:
            raise ValueError(f"{len(times)} times of {video.frames} frames")
        return video
    except UNREADABLE as error:
        raise unexpected(response, error) from error


def read_track(response: httpx.Response) -> Begun:
    """Read a track that was begun, or its description."""
    try:
        reply = response.json()
        check_size(int(reply["width"]), int(reply["height"]))
        goes_on = reply.get("next") or {}
        return Begun(
            track_id=str(reply["track_id"]),
            frames=_count(reply["frames"]),
            width=int(reply["width"]),
            height=int(reply["height"]),
            model=str(reply["model"]),
            tracker=str(reply["tracker"]),
            video_id=reply.get("video_id"),
            prompted={
                int(each["object"]): [int(frame) for frame in each["prompts"]]
                for each in reply.get("objects", ())
            },
            given=[
                _given(prompt, object_id=int(each["object"]), frame=int(frame))
                for each in reply.get("objects", ())
                for frame, prompts in each["prompts"].items()
                for prompt in prompts
            ],
            done=[(int(first), int(last)) for first, last in reply.get("done", ())],
            forward=_or_none(goes_on.get("forward")),
            backward=_or_none(goes_on.get("backward")),
        )
    except UNREADABLE as error:
        raise unexpected(response, error) from error


def read_frame(
    value: dict[str, Any], response: httpx.Response, *, size: tuple[int, int] | None, times: Sequence[float]
) -> TrackedFrame:
    """Read all objects on a frame, or the frame's own error."""
    try:
        index = value["frame"]
        if type(index) is not int or index < 0:
            raise ValueError(f"a frame {index!r}")
        time = times[index] if index < len(times) else None
        if "error" in value:
            failure = error_of_line(value, response)
            if isinstance(failure, UnexpectedReply):
                raise failure
            return TrackedFrame(index, {}, time, failure)
        masks = [TrackedMask.from_reply(each, size=size) for each in value["objects"] if each["masks"]]
        return TrackedFrame(index, {mask.object: mask for mask in masks}, time)
    except UNREADABLE as error:
        raise unexpected(response, error) from error


def read_shown(response: httpx.Response, *, size: tuple[int, int], times: Sequence[float]) -> TrackedFrame:
    """Read all objects on the frame of a prompt."""
    try:
        value = response.json()
        if not isinstance(value, dict):
            raise TypeError(f"{type(value).__name__} in place of a frame")
    except UNREADABLE as error:
        raise unexpected(response, error) from error
    return read_frame(value, response, size=size, times=times)


def read_dropped(response: httpx.Response) -> str | None:
    """Read what became of an object whose prompts were taken back: a sentence if it was dropped."""
    try:
        dropped = response.json()["dropped"]
        return None if dropped is None else str(dropped)
    except UNREADABLE as error:
        raise unexpected(response, error) from error


def _given(prompt: dict[str, Any], *, object_id: int, frame: int) -> dict[str, Any]:
    names = ("point_coords", "point_labels", "box", "clear")
    wire = {name: prompt[name] for name in names if prompt.get(name)}
    if prompt.get("has_mask"):
        wire["mask_input"] = None
    return {**wire, "frame": frame, "object": object_id}


def _count(value: Any) -> int:
    count = int(value)
    if not 0 < count <= _MOST_FRAMES:
        raise ValueError(f"{count} frames")
    return count


def _or_none(value: Any) -> int | None:
    return None if value is None else int(value)
