"""Which frames a propagation passes, and in which order. Does not know about requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from sam2_client.track_replies import Begun

Direction = Literal["forward", "backward", "both"]


@dataclass(frozen=True, slots=True)
class Span:
    """Which frames to pass, and which way. None leaves a value to the server."""

    start: int | None = None
    end: int | None = None
    direction: Direction = "forward"

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError for what is not a range."""
        if self.direction not in get_args(Direction):
            raise ValueError(
                f"direction is {self.direction!r}, but must be one of {', '.join(get_args(Direction))}"
            )
        for name in ("start", "end"):
            value = getattr(self, name)
            is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if value is not None and not (is_whole and value >= 0):
                raise ValueError(f"{name} is {value!r}, but must be the number of a frame, from 0")
        if self.direction == "both" and self.end is not None:
            raise ValueError("end requires direction 'forward' or 'backward': 'both' goes to both ends")
        if self.start is not None and self.end is not None:
            step = -1 if self.direction == "backward" else 1
            if (self.end - self.start) * step < 0:
                raise ValueError(
                    f"end {self.end} lies before start {self.start}, in direction {self.direction!r}"
                )

    def to_wire(self) -> dict[str, Any]:
        """Return the fields for /propagate."""
        ends = {"from": self.start, "to": self.end}
        return {
            "direction": self.direction,
            **{name: int(value) for name, value in ends.items() if value is not None},
        }


def legs_of(span: Span, track: Begun) -> Sequence[range]:
    """Return the frames to pass, in order, as ranges."""
    last = track.frames - 1
    stopped = {1: track.forward, -1: track.backward} if span.start is None else {}
    goes_on = {step: at for step, at in stopped.items() if at is not None and 0 <= at <= last}
    first = min((frame for frames in track.prompted.values() for frame in frames), default=0)
    start = first if span.start is None else span.start
    if span.direction == "both":
        # A way that was not gone yet is gone from the start, also where the other one goes on.
        known = {step: at for step, at in stopped.items() if at is not None} if goes_on else {}
        starts = {1: start, -1: start - 1} | known
    else:
        step = 1 if span.direction == "forward" else -1
        starts = {step: goes_on.get(step, start)}
    legs = []
    for step in (1, -1):
        if step in starts:
            end = span.end if span.end is not None else last if step > 0 else 0
            leg = range(starts[step], end + step, step)
            # Of a way that is done the server names no frame to go on at, as of one that was not gone.
            is_done = len(starts) > 1 and goes_on and stopped[step] is None and _holds(track.done, leg)
            if leg and not is_done:
                legs.append(leg)
    return legs


def _holds(done: Sequence[tuple[int, int]], leg: range) -> bool:
    return all(any(first <= frame <= last for first, last in done) for frame in leg)
