"""The requests of each call about a video or a track, in order, and what their replies mean.

Each function is a story (see asking.py). following.py has those of propagations.
"""

from typing import Any
from urllib.parse import quote

import numpy as np

from sam2_client import mending
from sam2_client.asking import Call, Story, ask
from sam2_client.errors import Sam2Error, VideoNotFound
from sam2_client.holdings import check_id
from sam2_client.mask_options import MaskOptions
from sam2_client.masks import Mask
from sam2_client.mending import Corrections, TrackState, all_at_once, ask_about, track_path
from sam2_client.pictures import Picture
from sam2_client.prompts import Prompt, to_wire
from sam2_client.retries import Retries
from sam2_client.track_replies import Begun, read_dropped, read_shown, read_track, read_video
from sam2_client.track_sources import Source, StoredVideo, VideoOptions
from sam2_client.tracked import TrackedFrame


def upload_video(file: Picture, options: VideoOptions, *, retries: Retries) -> Story[StoredVideo]:
    """Upload a video."""
    query = options.to_query()
    response = yield from ask(Call("POST", "videos", query=query, picture=file), retries)
    return read_video(response, file, query)


def find_video(video_id: str, *, retries: Retries) -> Story[StoredVideo]:
    """Look up a stored video."""
    response = yield from ask(Call("GET", _video_path(video_id)), retries)
    return read_video(response, None, {})


def delete_video(video_id: str, *, retries: Retries) -> Story[None]:
    """Delete a stored video."""
    yield from ask(Call("DELETE", _video_path(video_id)), retries)


def frame_file(video: StoredVideo | str, index: int, *, retries: Retries) -> Story[Picture]:
    """Return the file of a frame of a video. The video is uploaded again if the server has lost it."""
    video_id = video if isinstance(video, str) else video.video_id
    call = Call("GET", f"{_video_path(video_id)}/frames/{index}")
    try:
        response = yield from ask(call, retries)
    except VideoNotFound:
        if isinstance(video, str) or video.file is None:
            raise
        yield from mending.upload_again(video, retries)
        response = yield from ask(call, retries)
    return Picture(response.content)


def begin(
    source: Source, track_id: str | None, corrections: Corrections, *, retries: Retries
) -> Story[TrackState]:
    """Begin a track."""
    if track_id is not None:
        check_id(track_id)
    response = yield from mending.begin(source, track_id, corrections, retries)
    return TrackState(read_track(response), source, corrections)


def find(track_id: str, *, retries: Retries) -> Story[TrackState]:
    """Look up a track that was begun before, maybe elsewhere."""
    response = yield from ask(Call("GET", track_path(track_id)), retries)
    begun = read_track(response)
    return TrackState(begun, None, "kept", prompts=list(begun.given))


def describe(state: TrackState, *, retries: Retries, wait_s: float = 0.0) -> Story[Begun]:
    """Return the track as it is now."""
    response = yield from ask_about(state, Call("GET", state.path), retries=retries, wait_s=wait_s)
    return read_track(response)


def prompted(state: TrackState, *, retries: Retries) -> Story[dict[int, list[int]]]:
    """Return the objects of the track as it is now, each with the frames of its prompts."""
    now = yield from describe(state, retries=retries)
    return {each: list(frames) for each, frames in now.prompted.items()}


def prompt(
    state: TrackState,
    given: Prompt,
    *,
    frame: int,
    object_id: int,
    clear: bool,
    options: dict[str, Any],
    retries: Retries,
) -> Story[TrackedFrame]:
    """Say where an object is on a frame."""
    wire = prompt_to_wire(given, frame=frame, object_id=object_id, clear=clear)
    call = Call("POST", f"{state.path}/prompts", json={**wire, **options})
    again = Call("POST", f"{state.path}/prompts", json={**all_at_once(state.prompts, wire), **options})
    response = yield from ask_about(
        state, call, retries=retries, frames={frame, *state.prompted}, again=again
    )
    state.prompts.append(wire)
    state.goes_on.clear()
    return read_shown(response, size=state.begun.size, times=state.times)


def remove(state: TrackState, object_id: int, *, retries: Retries) -> Story[None]:
    """Forget an object."""
    yield from ask_about(state, Call("DELETE", f"{state.path}/objects/{object_id}"), retries=retries)
    state.prompts = [each for each in state.prompts if each["object"] != object_id]
    state.goes_on.clear()


def clear(state: TrackState, object_id: int, frame: int, *, retries: Retries) -> Story[str | None]:
    """Take an object's prompts on a frame back. Returns a sentence if the object is dropped by it."""
    call = Call("DELETE", f"{state.path}/objects/{object_id}/prompts/{frame}")
    response = yield from ask_about(state, call, retries=retries)
    dropped = read_dropped(response)
    state.goes_on.clear()
    state.prompts = [
        each
        for each in state.prompts
        if each["object"] != object_id or (dropped is None and each["frame"] != frame)
    ]
    return dropped


def picture_file(state: TrackState, index: int, *, retries: Retries) -> Story[Picture]:
    """Return the file of a frame. Raises ValueError if neither the client nor the server has it."""
    if not 0 <= index < state.begun.frames:
        raise ValueError(f"frame {index}: the track has frames 0 to {state.begun.frames - 1}")
    source = state.source
    if source is not None and (held := source.picture(index)) is not None:
        return held
    video = source.video if source is not None and source.video is not None else state.begun.video_id
    if video is None:
        raise ValueError(f"frame {index} is an embedded picture, which the server does not send back")
    return (yield from frame_file(video, index, retries=retries))


def shown_to_wire(max_hole_area: float, max_sprinkle_area: float, *, non_overlapping: bool) -> dict[str, Any]:
    """Return the fields for the form of masks."""
    if not isinstance(non_overlapping, bool):
        raise TypeError(f"non_overlapping is {non_overlapping!r}, but must be True or False")
    options = MaskOptions(False, max_hole_area, max_sprinkle_area)
    return {**options.to_wire(), **({"non_overlapping": True} if non_overlapping else {})}


def delete(state: TrackState, *, retries: Retries) -> Story[None]:
    """Forget the track, and what it would be made again from."""
    yield from ask(Call("DELETE", state.path), retries)
    state.source = None


def leave(state: TrackState, failure: type[BaseException] | None, *, retries: Retries) -> Story[None]:
    """Forget the track at the end of `with`. If that ends in a failure, it is the one to tell, not another one."""
    try:
        yield from delete(state, retries=retries)
    except Sam2Error:
        if failure is None:
            raise


def prompt_to_wire(given: Prompt, *, frame: int, object_id: int, clear: bool) -> dict[str, Any]:
    """Return a prompt as it is sent. Raises TypeError or ValueError for a wrong type, shape or value."""
    wire = to_wire(given)
    if isinstance(given.mask, Mask):
        wire["mask_input"] = given.mask.rle
    for name, value in (("frame", frame), ("object", object_id)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} is {value!r}, but must be a whole number")
        wire[name] = int(value)
    return {**wire, **({"clear": True} if clear else {})}


def _video_path(video_id: str) -> str:
    check_id(video_id)
    return f"videos/{quote(video_id, safe='')}"
