"""What the server has lost is mended as long as the client holds it.

Videos and pictures are uploaded again, and tracks are made again from their prompts. Each function is a story
(see asking.py). Does not know about propagations.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import httpx

from sam2_client import stories
from sam2_client.asking import Call, Story, ask
from sam2_client.errors import (
    ImageNotFound,
    Sam2Error,
    TrackBusy,
    TrackIdConflict,
    TrackNotFound,
    VideoNotFound,
)
from sam2_client.holdings import check_id
from sam2_client.retries import Retries
from sam2_client.track_replies import Begun, read_track
from sam2_client.track_sources import Source, StoredVideo

Corrections = Literal["kept", "meta"]


@dataclass(slots=True, eq=False)
class TrackState:
    """A track as the client knows it."""

    begun: Begun
    source: Source | None
    """What it is made again from. None if it was begun elsewhere, or is deleted."""
    corrections: Corrections
    prompts: list[dict[str, Any]] = field(default_factory=list)
    """The prompts that still count, as they were sent, in order.

    They are those of this client and, of a track that was found, those that it had then."""
    is_left: bool = False
    """Whether a propagation was left before its end, so that the server may be busy with it for a moment."""

    goes_on: dict[int, int] = field(default_factory=dict)
    """Where a propagation that was left goes on, forward (1) and backward (-1): after what the caller got. The
    server may be further on."""

    @property
    def path(self) -> str:
        """The path of its endpoints."""
        return track_path(self.begun.track_id)

    @property
    def prompted(self) -> list[int]:
        """The frames with prompts."""
        return sorted({each["frame"] for each in self.prompts})

    @property
    def times(self) -> Any:
        """When each frame is shown, as far as it is known."""
        return self.source.times if self.source is not None else ()


def ask_about(
    state: TrackState,
    call: Call,
    *,
    retries: Retries,
    frames: Iterable[int] = (),
    again: Call | None = None,
    wait_s: float = 0.0,
    makes_again: bool = True,
) -> Story[httpx.Response]:
    """Send a call. What the server has lost is mended once, and the call is repeated. `frames` are those it needs.

    A server that is still busy with a propagation that this client left is asked again.
    """
    mended: set[type[Sam2Error]] = set()
    tried = 0
    while True:
        try:
            response = yield from ask(call, retries, wait_s=wait_s, again=again)
        except TrackBusy:
            tried += 1
            pause = retries.pause_s(tried) if state.is_left else None
            if pause is None:
                raise
            wait_s = pause
        except (TrackNotFound, VideoNotFound, ImageNotFound) as error:
            if type(error) in mended or (isinstance(error, TrackNotFound) and not makes_again):
                raise
            mended.add(type(error))
            wait_s = 0.0
            if isinstance(error, TrackNotFound):
                yield from _make_again(state, error, retries)
            else:
                yield from _upload_what_is_lost(state.source, frames, error, retries)
        else:
            if call.method != "GET":  # which a busy server answers too
                state.is_left = call.is_stream
            return response


def embed_again(source: Source | None, index: int, retries: Retries) -> Story[bool]:
    """Embed the picture of a frame again. Returns whether the client has it."""
    if source is None or (picture := source.picture(index)) is None:
        return False
    yield from stories.embed(picture, image_id=source.images[index].image_id, replace=False, retries=retries)
    return True


def begin(
    source: Source, track_id: str | None, corrections: Corrections, retries: Retries
) -> Story[httpx.Response]:
    """Begin a track of frames, which are uploaded again if they are lost. Its id may come from a try before."""
    body = {**source.to_wire(), "corrections": corrections}
    if track_id is not None:
        body["track_id"] = track_id
    call = Call("POST", "tracks", json=body)
    try:
        return (yield from _begin_once(source, call, retries))
    except (VideoNotFound, ImageNotFound) as error:
        yield from _upload_what_is_lost(source, range(len(source.images)), error, retries)
        return (yield from _begin_once(source, call, retries))


def _begin_once(source: Source, call: Call, retries: Retries) -> Story[httpx.Response]:
    """Begin a track. If a reply was lost, a track without prompts that the next try meets is taken for its own."""
    try:
        return (yield from ask(call, retries))
    except TrackIdConflict as error:
        lost = error.__cause__
        if lost is None or isinstance(lost, httpx.ConnectError | httpx.ConnectTimeout) or call.json is None:
            raise
        response = yield from ask(Call("GET", track_path(call.json["track_id"])), retries)
        found = read_track(response)
        is_own = (found.frames, found.video_id) == (source.count, call.json.get("video_id"))
        if found.prompted or not is_own:
            raise
        return response


def _make_again(state: TrackState, error: TrackNotFound, retries: Retries) -> Story[None]:
    """Begin the track again under its id, and give it its prompts."""
    if state.source is None:
        raise TrackNotFound(
            f"{error.message} It may have expired, been deleted, or been forgotten for a newer one, and this "
            "client does not have what it was begun from.",
            status=error.status,
            request_id=error.request_id,
        ) from error
    yield from begin(state.source, state.begun.track_id, state.corrections, retries)
    path = f"{state.path}/prompts"
    for place, wire in enumerate(state.prompts):
        again = Call("POST", path, json=all_at_once(state.prompts[:place], wire))
        yield from ask_about(
            state,
            Call("POST", path, json=wire),
            retries=retries,
            frames=[wire["frame"]],
            again=again,
            makes_again=False,
        )


def _upload_what_is_lost(
    source: Source | None, frames: Iterable[int], error: Sam2Error, retries: Retries
) -> Story[None]:
    """Upload the video again, or the pictures of these frames. Raises the error if the client has none of them."""
    if isinstance(error, VideoNotFound):
        if source is None or source.video is None or source.video.file is None:
            raise VideoNotFound(
                f"{error.message} It may have expired, been deleted or evicted, and this client does not have its "
                "file.",
                status=error.status,
                request_id=error.request_id,
            ) from error
        yield from upload_again(source.video, retries)
        return
    had = False
    for index in sorted(frames):
        had = (yield from embed_again(source, index, retries)) or had
    if not had:
        raise error


def upload_again(video: StoredVideo, retries: Retries) -> Story[None]:
    """Upload a video's file again, with its options."""
    query = {name: value for name, value in video.query.items() if name != "replace"}
    yield from ask(Call("POST", "videos", query=query, picture=video.file), retries)


def all_at_once(before: list[dict[str, Any]], wire: dict[str, Any]) -> dict[str, Any]:
    """Return a prompt that can be sent twice: with all clicks of its object and frame, in place of those before."""
    if "mask_input" in wire or wire.get("clear"):
        return wire
    merged: dict[str, Any] = {"point_coords": [], "point_labels": []}
    for each in (*before, wire):
        if (each["frame"], each["object"]) != (wire["frame"], wire["object"]):
            continue
        if each.get("clear") or "mask_input" in each:
            merged = {"point_coords": [], "point_labels": []}
        for name in ("point_coords", "point_labels"):
            merged[name] = merged[name] + each.get(name, [])
        if "box" in each:
            merged["box"] = each["box"]
    given = {name: value for name, value in merged.items() if value}
    return {**given, "frame": wire["frame"], "object": wire["object"], "clear": True}


def track_path(track_id: str) -> str:
    """Return the path of a track. Raises ValueError for an id that no path can carry."""
    check_id(track_id)
    return f"tracks/{quote(track_id, safe='')}"
