"""Which frames of a video are wanted, and when each is on screen.

Does not know about files and pixels.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from app.errors import ValidationFailed, VideoTooLarge

Ticks: TypeAlias = npt.NDArray[np.int64]
"""Time stamps in units of the stream's time base."""

_DECIMALS = 6
_EXACT_S = 1e-6
"""What rounding to so many decimals changes."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a video are wanted: the options of /videos. All left out: every frame of the file."""

    fps: float | None = None
    """So many frames a second, by time: each is the one on screen then."""
    start_s: float | None = None
    end_s: float | None = None
    """Frames from `start_s` until before `end_s`, in seconds after the first frame of the file."""
    max_frames: int | None = None
    """No more than so many, the first ones."""

    @property
    def words(self) -> str:
        """The options as text, for file names and ids; empty if all are left out."""
        values = (("fps", self.fps), ("from", self.start_s), ("to", self.end_s), ("first", self.max_frames))
        return "_".join(f"{name}{_plain(value)}" for name, value in values if value)

    @classmethod
    def of_words(cls, words: str) -> "Sampling":
        """Return the options that `words` of another Sampling says."""
        found: dict[str, str] = {}
        for word in words.split("_") if words else ():
            name = word.rstrip("0123456789.")
            found[name] = word[len(name) :]
        numbers = {name: float(value) for name, value in found.items()}
        first = found.get("first")
        return cls(numbers.get("fps"), numbers.get("from"), numbers.get("to"), int(first) if first else None)

    def video_id(self, digest: str) -> str:
        """Return the id of a video without a name: the SHA-256 of its file, and of the options if there are any."""
        words = self.words
        return f"{digest}-{hashlib.sha256(words.encode()).hexdigest()[:16]}" if words else digest


def _plain(value: float) -> str:
    return f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """The chosen frames of a video, in order."""

    ticks: Ticks
    """The time stamp of each in the file. One that is chosen twice has the same one."""
    times_s: tuple[float, ...]
    """When each is on screen, in seconds after the first frame of the file."""
    fps: float


def choose_frames(shown: Ticks, *, last_ticks: int, tick_s: float, sampling: Sampling, most: int) -> Frames:
    """Choose frames of a file whose frames appear at `shown`, ascending; the last one stays for `last_ticks`.

    Raises ValidationFailed for a range without frames, and VideoTooLarge for more than `most` frames.
    """
    times = (shown - shown[0]) * tick_s
    duration = float(times[-1]) + last_ticks * tick_s
    start, end = sampling.start_s or 0.0, min(sampling.end_s or math.inf, duration)
    if start >= duration:
        what = f"the video lasts {duration:g} s, and {start:g} s is after its end"
        raise ValidationFailed(f"start_s: {what}.", details=[{"where": "start_s", "what": what}])
    slack = _slack_s(shown, tick_s)
    if sampling.fps is None:
        first, stop = (int(np.searchsorted(times, each - slack)) for each in (start, end))
        stop = len(times) if end == duration else stop
        count = stop - first
    else:
        count = math.ceil((end - start) * sampling.fps - 1e-6)
    count = min(count, sampling.max_frames or count)
    if count < 1:
        what = f"no frame is on screen from {start:g} s until before {end:g} s; choose a longer range"
        raise ValidationFailed(f"end_s: {what}.", details=[{"where": "end_s", "what": what}])
    if count > most:
        raise VideoTooLarge(
            f"These are {count} frames; the limit is {most} (SAM2_MAX_VIDEO_FRAMES). Choose fewer with fps, "
            "start_s, end_s or max_frames."
        )
    if sampling.fps is None:
        chosen, at = shown[first : first + count], times[first : first + count]
    else:
        at = start + np.arange(count) / sampling.fps
        places = np.searchsorted(times, at + slack, side="right") - 1
        chosen = shown[np.maximum(places, 0)]
    fps = sampling.fps or _mean_rate(times, duration)
    return Frames(chosen, tuple(round(float(each), _DECIMALS) for each in at), round(fps, _DECIMALS))


def _slack_s(shown: Ticks, tick_s: float) -> float:
    """Return how much later than a time a frame may be to count as on screen then.

    Containers round time stamps to their ticks: in WebM the third frame at 30 a second is at 67 ms, not at 66.7.
    Frames at equal distances are not rounded, and a tick may be as long as a frame.
    """
    steps = np.diff(shown)
    if len(steps) < 2 or steps.min() == steps.max():
        return _EXACT_S
    return max(_EXACT_S, tick_s * min(0.5, float(np.median(steps)) / 8))


def _mean_rate(times: npt.NDArray[np.float64], duration: float) -> float:
    return (len(times) - 1) / float(times[-1]) if len(times) > 1 else 1 / duration
