"""What a track is made of and what it answers: its frames, prompts, ranges, and masks. No tensors, no HTTP.

Does not know how objects are followed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from app.codecs.answers import MaskAnswer
from app.codecs.prompts import PromptRequest, RleMask
from app.errors import ServiceError
from app.segmenter import Corrections

Way: TypeAlias = Literal["forward", "backward", "both"]


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of a track, all of one size: images by their ids, or a video."""

    image_ids: tuple[str, ...] = ()
    video_id: str | None = None


@dataclass(frozen=True, slots=True)
class TrackPromptRequest:
    """A client's prompt for one object on one frame: its types are checked, nothing else."""

    frame: int
    object_id: int
    prompt: PromptRequest
    clear: bool = False
    """Replace the clicks that the object has on this frame."""
    mark: str = ""
    """Who asks again for what may have been done marks it, so that it counts once."""
    anew: bool = False
    """Do not build on the mask that the frame has so far."""

    @property
    def nbytes(self) -> int:
        """About the memory that it takes."""
        mask = self.prompt.mask_input
        counts = mask.counts if isinstance(mask, RleMask) else mask or ""
        return 256 + 64 * len(self.prompt.point_coords) + len(counts) * (1 if isinstance(counts, str) else 36)

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        given, mask = self.prompt, self.prompt.mask_input
        if isinstance(mask, RleMask):
            mask_input: Any = {"size": [mask.height, mask.width], "counts": mask.counts}
        else:
            mask_input = mask
        return {
            "frame": self.frame,
            "object": self.object_id,
            "point_coords": [list(point) for point in given.point_coords],
            "point_labels": list(given.point_labels),
            "box": list(given.box) if given.box is not None else None,
            "mask_input": mask_input,
            "clear": self.clear,
            "mark": self.mark,
            "anew": self.anew,
        }

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> "TrackPromptRequest":
        """From a file. Raises KeyError, TypeError and ValueError."""
        mask = content["mask_input"]
        if isinstance(mask, dict):
            height, width = mask["size"]
            mask = RleMask(height=height, width=width, counts=mask["counts"])
        elif not isinstance(mask, str | None):
            raise TypeError("its mask is no text")
        _check_numbers(content["point_coords"], content["point_labels"], content["box"])
        prompt = PromptRequest(
            point_coords=content["point_coords"],
            point_labels=content["point_labels"],
            box=content["box"],
            mask_input=mask,
        )
        if int(content["frame"]) < 0:
            raise ValueError(f"frame {content['frame']}")
        return cls(
            int(content["frame"]),
            int(content["object"]),
            prompt,
            clear=bool(content["clear"]),
            mark=str(content.get("mark", "")),  # a file of an earlier version has none
            anew=bool(content.get("anew", False)),  # tracks of earlier versions lack it
        )


def _check_numbers(points: Any, labels: Any, box: Any) -> None:
    """Raise TypeError or ValueError if these are no points, labels and box."""
    if not all(len([float(each) for each in point]) == 2 for point in points):
        raise ValueError("a point has two coordinates")
    for label in labels:
        int(label)
    if box is not None and len([float(each) for each in box]) != 4:
        raise ValueError("a box has four coordinates")


@dataclass(frozen=True, slots=True)
class Range:
    """Which frames a propagation passes, and which way. None: as Tracks.propagate decides."""

    first: int | None = None
    last: int | None = None
    way: Way = "forward"


@dataclass(frozen=True, slots=True)
class ObjectAnswer:
    """One object on one frame."""

    object_id: int
    mask: MaskAnswer | None
    """None: the frame was tracked too long ago, and its mask is not held any more."""
    score: float
    """A logit; the object is there where it is above 0."""
    visible: bool


@dataclass(frozen=True, slots=True)
class FrameAnswer:
    """All objects on one frame, in the order added; or why there is no answer for it."""

    frame: int
    objects: list[ObjectAnswer] = field(default_factory=list)
    error: ServiceError | None = None
    """Of this frame alone: the propagation goes on."""


@dataclass(frozen=True, slots=True)
class TrackInfo:
    """Describes a track."""

    track_id: str
    frames: int
    height: int
    width: int
    video_id: str | None
    corrections: Corrections
    objects: dict[int, list[TrackPromptRequest]]
    """Objects in the order added, each with its prompts in the order given."""
    done: list[tuple[int, int]]
    """Ranges of frames that were propagated over, first and last."""
    next_forward: int | None
    """Where a propagation that was stopped goes on."""
    next_backward: int | None
    nbytes: int
    """What is remembered of its objects."""
    created: float
    used: float


def ranges(frames: Iterable[int]) -> list[tuple[int, int]]:
    """Frames as ranges, first and last."""
    found: list[tuple[int, int]] = []
    for frame in sorted(frames):
        if found and found[-1][1] == frame - 1:
            found[-1] = (found[-1][0], frame)
        else:
            found.append((frame, frame))
    return found
