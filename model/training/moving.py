"""How things of a clip move: where each is on a frame, how large and how far turned.

Does not know what they show. Places and lengths in sides of the frame, so that they fit any size.
"""

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from model.training.pack import Pixels
from model.training.views import View, view_of


class ClipKind(Enum):
    """What happens to the object that is followed."""

    MOVE = "move"
    SCALE = "scale"
    TURN = "turn"
    HIDE = "hide"
    """Something passes in front of it."""
    VANISH = "vanish"
    """It leaves the frame over an edge, and comes back there."""


@dataclass(frozen=True, eq=False)
class Path:
    """Where something is, frame by frame."""

    centres: npt.NDArray[np.float64]
    """(n, 2): x, y."""
    sizes: npt.NDArray[np.float64]
    """(n,): of the longer side of the thing."""
    turns: npt.NDArray[np.float64]
    """(n,): radians."""
    present: npt.NDArray[np.bool_]
    """(n,): whether it is there at all, inside the frame or not."""

    def view(self, at: int, pixels: Pixels, side: int) -> View:
        """From the frame to a thing (h, w, c), for frame `at`."""
        h, w = pixels.shape[:2]
        across = max(h, w) / self.sizes[at]
        x, y = self.centres[at] * side - 0.5
        middle = ((w - 1) / 2, (h - 1) / 2)
        return view_of(middle, (across, across), side, turn=self.turns[at], target=(float(x), float(y)))


FASTEST = 0.04
"""Sides of the frame from one frame to the next: 18 of the built-in model's 448 pixels."""

_MARGINS = (0.15, 0.85)
"""Between which middles stay, each way."""


def subject_path(kind: ClipKind, frames: int, rng: np.random.Generator) -> Path:
    """The path of what is followed; it begins well inside the frame."""
    times = np.linspace(0, 1, frames)
    begins = rng.uniform(0.3, 0.7, 2)
    path = Path(
        _wandering(begins, frames, rng),
        rng.uniform(0.22, 0.45) * np.exp(rng.normal(0, 0.08) * times),
        rng.normal(0, 0.12) * times,
        np.ones(frames, np.bool_),
    )
    if kind is ClipKind.SCALE:
        factor = rng.uniform(1.6, 2.4) ** rng.choice([-1, 1])
        size = rng.uniform(0.3, 0.45) if factor < 1 else rng.uniform(0.2, 0.3)
        return replace(path, sizes=size * factor**times)
    if kind is ClipKind.TURN:
        return replace(path, turns=rng.choice([-1, 1]) * rng.uniform(1.0, 2.6) * times)
    if kind is ClipKind.VANISH:
        return replace(path, centres=_out_and_back(begins, path.sizes[0], frames, rng))
    return path


def hiding_path(subject: Path, frames: int, rng: np.random.Generator) -> Path:
    """Across the subject, in front of it in the middle of the clip."""
    middle = subject.centres[frames // 2]
    angle = rng.uniform(0, 2 * np.pi)
    way = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.6, 1.0)
    off = rng.normal(0, 0.04, 2)
    centres = middle + off + way * np.linspace(-0.7, 0.7, frames)[:, None]
    size = subject.sizes[frames // 2] * rng.uniform(0.7, 1.1)
    return Path(
        centres, np.full(frames, size), np.full(frames, rng.normal(0, 0.3)), np.ones(frames, np.bool_)
    )


def bystander_path(frames: int, rng: np.random.Generator) -> Path:
    """Anywhere; it may appear after the first frame, or vanish before the last."""
    begins = rng.uniform(*_MARGINS, 2)
    present = np.ones(frames, np.bool_)
    if rng.random() < 0.5:
        at = int(rng.integers(1, frames))
        present[slice(at) if rng.random() < 0.5 else slice(at, None)] = False
    return Path(
        _wandering(begins, frames, rng),
        np.full(frames, rng.uniform(0.15, 0.4)),
        rng.normal(0, 0.3) * np.linspace(0, 1, frames),
        present,
    )


def camera(pixels: Pixels, side: int, frames: int, rng: np.random.Generator) -> list[View]:
    """A photograph (h, w, 3) panned and zoomed: a view for each frame."""
    h, w = pixels.shape[:2]
    shares = rng.uniform(0.55, 0.9, 2)
    sways = rng.normal(0, 0.03, 2)
    places = rng.uniform(0, 1, (2, 2))
    views = []
    for time in np.linspace(0, 1, frames):
        share = shares[0] * (shares[1] / shares[0]) ** time
        size = np.array([w, h]) * share
        place = places[0] + (places[1] - places[0]) * time * 0.6
        centre = size / 2 + place * (np.array([w, h]) - size) - 0.5
        views.append(view_of((centre[0], centre[1]), (size[0], size[1]), side, turn=float(sways @ (1, time))))
    return views


def _wandering(
    begins: npt.NDArray[np.float64], frames: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(n, 2): a way with a slow bend, that turns back at the margins of the frame."""
    angle, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.15)
    speed = rng.uniform(0.2, 1.0) * FASTEST
    angles = angle + bend * np.arange(frames - 1)
    steps = speed * np.column_stack([np.cos(angles), np.sin(angles)])
    free = begins + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    low, high = _MARGINS
    there_and_back = (free - low) % (2 * (high - low))
    return low + np.minimum(there_and_back, 2 * (high - low) - there_and_back)


def _out_and_back(
    begins: npt.NDArray[np.float64], size: float, frames: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(n, 2): out over one edge, away for about a quarter of the clip, and in again nearby."""
    axis, is_far = int(rng.integers(2)), bool(rng.integers(2))
    outside = 1 + 0.75 * size if is_far else -0.75 * size
    knots = np.array([0.0, 0.4, 0.6, 1.0])
    times = np.linspace(0, 1, frames)
    centres = np.tile(begins, (frames, 1))
    comes_to = rng.uniform(0.3, 0.7)
    centres[:, axis] = np.interp(times, knots, [begins[axis], outside, outside, comes_to])
    centres[:, 1 - axis] += rng.uniform(-0.2, 0.2) * times
    return centres
