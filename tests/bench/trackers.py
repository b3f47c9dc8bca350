"""Sides that follow objects through a video: ours, what is measured of each, and how far two agree.

A side gets the embeddings of all frames once. Does not know which peers there are.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from model.runner import Sam2Runner
from model.types import Embedding, Prompt
from model.video.track import Track
from model.video.values import Frame
from tests.bench import machine
from tests.bench.report import TRANSFORMERS, Row, timed_rows, track_agreement, track_case
from tests.bench.timing import Effort, take_turns

Click = tuple[float, float]


class Tracker(Protocol):
    """One contender."""

    def begin(self, clicks: Sequence[Click]) -> None:
        """Start anew, with an object for each click (x, y) on the first frame."""

    def step(self, frame: int) -> npt.NDArray[np.float32]:
        """Follow the objects to a frame: logits (objects, h, w)."""

    @property
    def held_bytes(self) -> int:
        """Bytes of all that is remembered of the objects."""


class OurTracker:
    """Implements Tracker with the track that the service keeps."""

    def __init__(self, runner: Sam2Runner, embeddings: Sequence[Embedding]) -> None:
        self._runner, self._embeddings = runner, embeddings
        self._track: Track

    def begin(self, clicks: Sequence[Click]) -> None:
        """See Tracker."""
        track = self._runner.tracking.begin(num_frames=len(self._embeddings))
        assert isinstance(track, Track)  # the weights have a video half
        self._track, first = track, Frame(0, self._embeddings[0])
        for object_id, click in enumerate(clicks):
            track.prompt(first, object_id, Prompt(points=(click,), labels=(1,)))
        self.step(0)

    def step(self, frame: int) -> npt.NDArray[np.float32]:
        """See Tracker."""
        shown = self._track.step(Frame(frame, self._embeddings[frame]))
        return np.stack([each.logits for each in shown if each.logits is not None])

    @property
    def held_bytes(self) -> int:
        """See Tracker."""
        return self._track.nbytes


def follow(sides: Mapping[str, Tracker], clicks: Sequence[Click], *, num_frames: int) -> Iterator[Row]:
    """Follow so many objects through all frames, each frame a round. Yields times, memory and agreement of sides.

    The last frame is not timed: its step's peak of memory is measured.
    """
    case = track_case(len(clicks))
    masks: dict[str, list[npt.NDArray[np.bool_]]] = {name: [] for name in sides}

    def go_on(name: str) -> None:
        masks[name].append(sides[name].step(len(masks[name]) + 1) > 0)

    for side in sides.values():
        side.begin(clicks)
    effort = Effort(0.0, least=num_frames - 2, most=num_frames - 2, warm_up=0)
    times = take_turns({name: partial(go_on, name) for name in sides}, effort)
    yield from timed_rows("video", case, times)
    for name, side in sides.items():
        before = machine.forget_peak()
        go_on(name)
        values = {
            "peak of a step MiB": machine.peak_resident_mib() - before,
            "held MiB": side.held_bytes / 2**20,
        }
        yield Row("video", f"{case}: memory after {num_frames} frames", name, values)
    expected = np.stack(masks.pop(TRANSFORMERS))
    yield from (agreement(name, np.stack(each), expected, case=case) for name, each in masks.items())


def agreement(name: str, found: npt.NDArray[np.bool_], expected: npt.NDArray[np.bool_], *, case: str) -> Row:
    """Shares of pixels of masks (frames, objects, h, w) that differ."""
    shares = (found != expected).mean(axis=(2, 3))
    values = {"pixels": float(shares.mean()), "worst_pixels": float(shares.max())}
    return Row("agreement", track_agreement(case), name, values)


def grow(side: Tracker, clicks: Sequence[Click], *, num_frames: int, settled: int) -> dict[str, float]:
    """Follow objects through many frames. Return by how much memory grew until so many were done, and after them.

    Until then, freed memory is in pieces of more and more sizes, and libraries take their buffers.
    """
    side.begin(clicks)
    started = machine.resident_mib()
    for frame in range(1, settled):
        side.step(frame)
    held, resident = side.held_bytes, machine.resident_mib()
    for frame in range(settled, num_frames):
        side.step(frame)
    return {
        "frames": num_frames,
        "settled frames": settled,
        "held bytes, growth": side.held_bytes - held,
        "process, growth until settled MiB": resident - started,
        "process, growth MiB": machine.resident_mib() - resident,
    }
