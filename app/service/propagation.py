"""One propagation: which frames it passes, in which order, and what happens where one cannot be read.

Does not know about masks' formats, names or HTTP.
"""

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import TypeVar

from app.errors import FrameNotFound, ImageNotFound, InvalidFrame, InvalidImage, InvalidPrompt, ServiceError
from app.scheduling.deadlines import within
from app.segmenter import ObjectTracks
from app.service.live_tracks import EmbeddingOf, LiveTracks, Outcome
from app.service.track_state import TrackState
from app.service.track_values import Range
from app.telemetry.metrics import Metrics
from app.telemetry.stages import StageTimes
from app.track_errors import TrackNotFound
from model.video.values import Direction, Frame, ObjectMask

T = TypeVar("T")

_OF_ONE_FRAME = (FrameNotFound, ImageNotFound, InvalidFrame, InvalidImage)
"""Errors of a frame, after which the next one may be whole."""


class Propagation:
    """Follows all objects of a track from frame to frame. The caller holds the track's lock."""

    def __init__(
        self, live: LiveTracks, metrics: Metrics, *, embedding: EmbeddingOf, deadline_s: float
    ) -> None:
        self._live, self._metrics, self._embedding = live, metrics, embedding
        self._deadline = partial(within, deadline_s)

    async def run(
        self, state: TrackState, wanted: Range, *, share: str
    ) -> AsyncGenerator[tuple[int, list[ObjectMask] | ServiceError], None]:
        """Yield each frame with its objects or its own error. Each frame has a deadline of its own."""
        first = await self._settle(state, share=share)
        for direction, numbers in plan(state, wanted, first=first):
            for number in numbers:
                if state.is_deleted:
                    raise TrackNotFound.deleted_meanwhile(state.track_id)
                state.goes_on_at[direction] = number
                shown = await self._step(state, number, direction, share=share)
                state.goes_on_at[direction] = number + direction
                yield number, shown
            if wanted.way != "both":
                state.goes_on_at.pop(direction, None)
        if wanted.way == "both":
            state.goes_on_at.clear()

    async def _settle(self, state: TrackState, *, share: str) -> int:
        """Make the memories of new prompts. Returns the earliest frame with a prompt."""
        outcome: Outcome[None] = await self._do(state, lambda _: None, share=share)
        if outcome.first_frame is None:
            raise InvalidPrompt(
                "There is no object to follow. Prompt one on any frame first: POST /tracks/{track_id}/prompts."
            )
        for number in outcome.unsettled:
            async with self._deadline():
                frame = await self._frame(state, number, share=share)
                await self._do(state, partial(_settled, frame), share=share)
        return outcome.first_frame

    async def _step(
        self, state: TrackState, number: int, direction: Direction, *, share: str
    ) -> list[ObjectMask] | ServiceError:
        async with self._deadline():
            try:
                frame = await self._frame(state, number, share=share)
            except _OF_ONE_FRAME as error:
                self._metrics.tracked_frames.labels("failed").inc()
                return error
            outcome = await self._do(state, lambda live: live.step(frame, direction=direction), share=share)
        state.done.add(number)
        self._metrics.tracked_frames.labels("tracked").inc()
        return outcome.result

    async def _frame(self, state: TrackState, number: int, *, share: str) -> Frame:
        return Frame(number, await self._embedding(state, number, times=StageTimes(), share=share))

    async def _do(self, state: TrackState, work: Callable[[ObjectTracks], T], *, share: str) -> Outcome[T]:
        return await self._live.do(state, work, times=StageTimes(), share=share)


def _settled(frame: Frame, live: ObjectTracks) -> None:
    live.settle(frame)


def plan(state: TrackState, wanted: Range, *, first: int) -> list[tuple[Direction, range]]:
    """Return which way, over which frames. `first` is the earliest frame with a prompt.

    Both ways: forward from the start, then backward from the frame before it; of what was stopped, what is left of
    both. Raises InvalidPrompt for frames that are not there, or lie on the other side.
    """
    last_frame = state.count - 1
    for name, number in (("from", wanted.first), ("to", wanted.last)):
        if number is not None and number > last_frame:
            raise InvalidPrompt(f"{name} {number}: the track has frames 0 to {last_frame}.")
    stopped = state.goes_on_at if wanted.first is None else {}
    # Behind the last frame that way there is nothing left to do, so it begins anew.
    goes_on = {way: number for way, number in stopped.items() if 0 <= number <= last_frame}
    start = first if wanted.first is None else wanted.first
    if wanted.way == "both":
        if wanted.last is not None:
            raise InvalidPrompt("to needs a direction, 'forward' or 'backward': both ways go to the ends.")
        # A way that was not gone yet is gone from the start, also where the other one goes on.
        starts = {Direction.FORWARD: start, Direction.BACKWARD: start - 1} | (stopped if goes_on else {})
    else:
        way = Direction.FORWARD if wanted.way == "forward" else Direction.BACKWARD
        starts = {way: goes_on.get(way, start)}
    found = []
    for way in (Direction.FORWARD, Direction.BACKWARD):
        if not 0 <= starts.get(way, -1) <= last_frame:
            continue
        end = wanted.last if wanted.last is not None else last_frame if way > 0 else 0
        if wanted.last is not None and (end - starts[way]) * way < 0:
            raise InvalidPrompt(f"to {end} lies before the first frame, {starts[way]}, {wanted.way}.")
        found.append((way, range(starts[way], end + way, way)))
    # Both are noted at the start, so that a stop on the way forward leaves the way back to be gone.
    state.goes_on_at = dict(starts) if wanted.way == "both" else {**state.goes_on_at, **starts}
    return found
