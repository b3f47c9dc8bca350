"""Propagations: a reply of many lines that goes on where it was if it is cut.

Each function is a story of frames (see asking.py). Does not know about sockets, threads and event loops.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx

from sam2_client.asking import Call, FrameStory, NextPiece, Story, ask
from sam2_client.error_replies import error_of_line, error_of_transport, unexpected
from sam2_client.errors import (
    ConnectionFailed,
    ImageNotFound,
    NamesUnreachable,
    NotReady,
    Overloaded,
    RateLimited,
    Sam2Error,
    ShuttingDown,
    TrackNotFound,
    VideoNotFound,
)
from sam2_client.frame_lines import FrameLines
from sam2_client.images import Progress
from sam2_client.mending import TrackState, ask_about, embed_again
from sam2_client.prompts import TrackPrompt
from sam2_client.retries import Retries
from sam2_client.spans import Span, legs_of
from sam2_client.track_replies import Begun, read_frame
from sam2_client.track_sources import Source
from sam2_client.track_stories import describe, prompt_to_wire
from sam2_client.tracked import TrackedFrame

_PASSING = (
    ConnectionFailed, NamesUnreachable, NotReady, Overloaded, RateLimited, ShuttingDown, TrackNotFound,
    VideoNotFound,
)  # fmt: skip
"""Failures in the middle after which the rest may be had: the server comes back, or what it lost is mended."""


class Course:
    """Which frames are still to come."""

    def __init__(self, span: Span, track: Begun) -> None:
        """`track` says where a propagation goes on that was stopped, or else where the first prompt is."""
        self.legs = list(legs_of(span, track))
        self._whole = list(self.legs)
        self._given: set[int] = set()
        self._tracked: set[int] = set()
        self.embedded_again: set[int] = set()
        """Frames whose pictures were uploaded again."""

    @property
    def total(self) -> int:
        """Number of frames of all legs, passed ones included."""
        return sum(map(len, self._whole))

    @property
    def passed(self) -> int:
        """Number of frames that the caller has got."""
        return len(self._given)

    @property
    def goes_on(self) -> dict[int, int]:
        """Where each way goes on, behind its last frame if it is done; nothing if all are."""
        starts = {leg.step: leg.stop for leg in self._whole} if len(self._whole) > 1 else {}
        return starts | {leg.step: leg[0] for leg in self.legs} if self.legs else {}

    def request(self) -> dict[str, Any]:
        """Return the fields for the legs that one request can have."""
        leg, *others = self.legs
        if others and leg.step > 0 and others[0][0] == leg[0] - 1:
            return {"direction": "both", "from": leg[0]}
        return {"direction": "forward" if leg.step > 0 else "backward", "from": leg[0], "to": leg[-1]}

    def take(self, frame: TrackedFrame) -> bool:
        """Count a frame. Returns whether it is new to the caller. Raises ValueError if it is not the next one."""
        if not self.legs or frame.index != self.legs[0][0]:
            raise ValueError(f"frame {frame.index} was not asked for")
        self.legs[0] = self.legs[0][1:]
        self.legs = [leg for leg in self.legs if leg]
        if frame.error is None:
            self._tracked.add(frame.index)
        is_new = frame.index not in self._given
        self._given.add(frame.index)
        return is_new

    def look(self, track: Begun) -> None:
        """Begin anew if the server has lost what it remembered of the frames that were passed.

        Frames that the caller has are then passed once more, but not given again.
        """
        done = {
            frame for first, last in track.done for frame in range(max(first, 0), min(last, track.frames) + 1)
        }
        if not self._tracked <= done:
            self.legs = list(self._whole)


class _Cut(Exception):
    """A reply ended before its last line, or stopped coming."""

    def __init__(self, failure: Sam2Error) -> None:
        self.failure = failure


class _EmbeddedAgain(Exception):
    """The picture of the next frame was lost, and is there again."""


def follow(
    state: TrackState, span: Span, *, options: dict[str, Any], progress: bool, retries: Retries
) -> FrameStory:
    """Follow the objects of a track. After a cut, goes on where it was."""
    known = yield from describe(state, retries=retries)
    if state.goes_on and known.done:
        known = replace(known, forward=state.goes_on.get(1), backward=state.goes_on.get(-1))
    course = Course(span, known)
    if not known.prompted or not course.legs:  # the server says what is missing
        call = Call("POST", f"{state.path}/propagate", json={**span.to_wire(), **options})
        response = yield from ask_about(state, call, retries=retries)
        raise unexpected(response, ValueError("there was nothing to follow"))
    with Progress(course.total, shown=progress, unit="frame") as bar:
        try:
            yield from _pass_all(state, course, options, bar, retries)
        finally:
            state.goes_on = course.goes_on


def follow_once(
    source: Source,
    prompts: Sequence[TrackPrompt],
    span: Span,
    *,
    options: dict[str, Any],
    progress: bool,
    retries: Retries,
) -> FrameStory:
    """Follow objects in one request that leaves nothing on the server, and so cannot go on after a cut."""
    wires = [prompt_to_wire(each, frame=each.frame, object_id=each.object, clear=False) for each in prompts]
    body = {**source.to_wire(), "prompts": wires, **span.to_wire(), **options}
    prompted = {each.object: [each.frame] for each in prompts}
    course = Course(span, Begun("", source.count, 0, 0, "", "", prompted=prompted))
    response = yield from ask(Call("POST", "propagate", json=body, is_stream=True), retries)
    lines, seen = FrameLines(response), set[int]()
    with Progress(course.total, shown=progress, unit="frame") as bar:
        try:
            while True:
                for value in (yield from _next_lines(lines, response)):
                    if "frame" not in value:
                        return _end(value, response)
                    frame = read_frame(value, response, size=source.size, times=source.times)
                    if frame.index in seen:
                        raise unexpected(response, ValueError(f"frame {frame.index} came twice"))
                    seen.add(frame.index)
                    bar.count(frame.error)
                    yield frame
        except _Cut as cut:
            raise cut.failure from cut.__cause__


def _pass_all(
    state: TrackState, course: Course, options: dict[str, Any], bar: Progress, retries: Retries
) -> FrameStory:
    tried = 0
    while course.legs:
        before = course.passed
        try:
            yield from _pass(state, course, options, bar, retries)
        except _EmbeddedAgain:
            continue
        except _Cut as cut:
            tried = 1 if course.passed > before else tried + 1
            pause = retries.pause_s(tried)
            if pause is None:
                raise cut.failure from cut.__cause__
            course.look((yield from describe(state, retries=retries, wait_s=pause)))
        else:
            tried = 0


def _pass(
    state: TrackState, course: Course, options: dict[str, Any], bar: Progress, retries: Retries
) -> FrameStory:
    """Pass the legs of one request."""
    call = Call("POST", f"{state.path}/propagate", json={**course.request(), **options}, is_stream=True)
    response = yield from ask_about(state, call, retries=retries, frames=state.prompted)
    lines = FrameLines(response)
    legs_after = len(course.legs) - (2 if call.json and call.json["direction"] == "both" else 1)
    while True:
        for value in (yield from _next_lines(lines, response)):
            if "frame" not in value:
                _end(value, response)
                if len(course.legs) > legs_after:
                    raise unexpected(response, ValueError("it ended before its last frame"))
                state.is_left = False
                return
            frame = read_frame(value, response, size=state.begun.size, times=state.times)
            if isinstance(frame.error, ImageNotFound) and frame.index not in course.embedded_again:
                course.embedded_again.add(frame.index)
                if (yield from embed_again(state.source, frame.index, retries)):
                    raise _EmbeddedAgain
            try:
                is_new = course.take(frame)
            except ValueError as error:
                raise unexpected(response, error) from error
            if is_new:
                bar.count(frame.error)
                yield frame


def _next_lines(lines: FrameLines, response: httpx.Response) -> Story[list[dict[str, Any]]]:
    """Read on. Raises _Cut if the connection breaks, or is silent for too long."""
    try:
        piece: Any = yield NextPiece()  # type: ignore[misc]  # the only step of its kind
    except httpx.RequestError as error:
        failure = error_of_transport(error)
        raise _Cut(failure) from error
    if not piece:
        url = response.request.url
        server = f"{url.scheme}://{url.netloc.decode()}"
        raise _Cut(ConnectionFailed(f"The reply of {server} ended before its last line."))
    return lines.add(piece)


def _end(value: dict[str, Any], response: httpx.Response) -> None:
    """Read the last line. Raises the error in it, or _Cut if that will pass."""
    if value.get("done") is True:
        return
    failure = error_of_line(value, response)
    raise _Cut(failure) if isinstance(failure, _PASSING) else failure
