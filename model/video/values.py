"""The values of a track: frames, prompts, what the network is asked and what it answers.

Does not know about other frames than the one it is about.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from torch import Tensor

from model.types import Embedding, Logits, Prompt

ABSENT = -1024.0
"""The logit, everywhere on the mask, of an object that is not on the frame."""


class Direction(IntEnum):
    """Which way a track goes; the value is the step to the next frame."""

    FORWARD = 1
    BACKWARD = -1


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame of a video: its place in it, from 0, and its embedding."""

    index: int
    embedding: Embedding


@dataclass(frozen=True, slots=True, eq=False)
class MaskPrompt:
    """The user says what the mask is. An empty one says that the object is not on the frame."""

    mask: npt.NDArray[np.bool_]
    """(height, width), of any size: it is stretched over the frame."""


TrackPrompt = Prompt | MaskPrompt
"""Clicks and a box; or a mask. How many masks the decoder makes follows from the clicks, not from the prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What an object's frame is allowed to remember."""

    memories: tuple[tuple[Tensor, int], ...]
    """(h * w, m) each, with their rows of the temporal encoding."""
    pointers: tuple[tuple[Tensor, float], ...]
    """(c,) each, with their distances in time; 1 is that of the farthest pointer seen by default."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What the decoder is asked about one object on a frame."""

    seen: Seen | None
    """None: the object's first prompt, for which there is no memory."""
    clicks: Prompt | None = None
    earlier: Tensor | None = None
    """Logits (h, w) of this frame, on which new clicks build."""


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """What the network says of one object on one frame, and what is remembered of it.

    At 1024 px the memory is 512 KiB, the logits 256 KiB, the pointer 1 KiB (half of it in half precision).
    """

    logits: Tensor | None
    """(h, w), float32, not clamped. None: it is too long ago."""
    pointer: Tensor
    """(c,)."""
    object_score: float
    """A logit; the object is there where it is above 0."""
    iou: float
    """What the decoder thinks of the mask, 0..1."""
    memory: Tensor | None = None
    """(h * w, m), bfloat16. None: not made yet, or too long ago."""

    @property
    def present(self) -> bool:
        """Whether the object is on the frame."""
        return self.object_score > 0

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(t.nbytes for t in (self.logits, self.pointer, self.memory) if t is not None)

    def without_map_and_memory(self) -> "Output":
        """What is left for frames far behind: the pointer."""
        return replace(self, logits=None, memory=None)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectMask:
    """One object on one frame, as it is shown."""

    object_id: int
    logits: Logits | None
    """(h, w) at low resolution, in host memory. None: tracked, but too long ago to be held still."""
    object_score: float
    iou: float

    @property
    def visible(self) -> bool:
        """Whether the object is on the frame."""
        return self.object_score > 0


def dropped(object_id: int, frame: int) -> str:
    """What is said of an object whose last prompt is taken back."""
    return (
        f"Object {object_id} is dropped: without its prompt on frame {frame} it has none to be tracked from."
    )
