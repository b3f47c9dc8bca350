"""Which frames an object remembers at a frame, and which of its frames nobody can see any more.

SAM 2 (arXiv 2408.00714, D.1) as Meta's SAM2Base._prepare_memory_conditioned_features decides it. Numbers of frames
only: no tensors.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from model.network.config import VideoConfig
from model.video.values import Direction

_CONDITIONING_ROW = -1
"""The last row of the temporal encoding."""


@dataclass(frozen=True, slots=True)
class Visible:
    """Frames whose memory, and frames whose pointer is seen."""

    memories: tuple[tuple[int, int], ...]
    """Frame and row of the temporal encoding."""
    pointers: tuple[tuple[int, int], ...]
    """Frame and distance in frames."""


def visible(
    at: int,
    direction: Direction,
    *,
    conditioning: Sequence[int],
    others: Collection[int],
    video: VideoConfig,
    num_frames: int,
    max_conditioning: int | None = None,
) -> Visible:
    """What is seen at a frame, in the order of Meta's code.

    `conditioning` frames are seen whether they lie behind or ahead; of their pointers only those behind are.
    `num_frames` bounds how far back pointers are seen. Where `max_conditioning` leaves frames out, they count as
    ordinary ones.
    """
    chosen = nearest(conditioning, at, max_conditioning)
    ordinary = {*others, *conditioning}.difference(chosen)
    memories = [(frame, video.num_memories + _CONDITIONING_ROW) for frame in chosen]
    for distance in range(video.reach, 0, -1):
        frame = at - direction * distance
        if frame in ordinary:
            memories.append((frame, distance - 1))
    pointers = [(frame, (at - frame) * direction) for frame in chosen if (at - frame) * direction >= 0]
    for distance in range(1, pointer_reach(video, num_frames) + 1):
        frame = at - direction * distance
        if frame in ordinary:
            pointers.append((frame, distance))
    return Visible(tuple(memories), tuple(pointers))


def pointer_reach(video: VideoConfig, num_frames: int) -> int:
    """Frames away at which an ordinary frame's pointer is seen last: the unit of a pointer's distance.

    So a short video's pointers are encoded otherwise than the first frames of a long one, as in Meta's code.
    """
    return max(1, min(num_frames, video.num_pointers) - 1)


def nearest(frames: Sequence[int], at: int, most: int | None) -> list[int]:
    """At most so many conditioning frames: the nearest before, the nearest from here on, the nearest others."""
    if most is None or len(frames) <= most:
        return list(frames)
    before = max((frame for frame in frames if frame < at), default=None)
    after = min((frame for frame in frames if frame >= at), default=None)
    chosen = [frame for frame in (before, after) if frame is not None]
    rest = sorted((frame for frame in frames if frame not in chosen), key=lambda frame: abs(frame - at))
    return [*chosen, *rest[: most - len(chosen)]]
