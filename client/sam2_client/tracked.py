"""What a track answers: the objects on a frame, each with its mask. Does not know about requests."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from PIL import Image

from sam2_client.errors import Sam2Error
from sam2_client.masks import Mask
from sam2_client.pictures import PictureSource, open_picture

COLORS = (
    (30, 144, 255), (255, 127, 14), (44, 190, 80), (214, 60, 70), (160, 100, 220), (240, 200, 40),
    (230, 110, 190), (30, 190, 190), (150, 110, 80), (130, 140, 150),
)  # fmt: skip
"""Colours of objects by their numbers: object 1 has the first, which is that of a lone mask."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TrackedMask(Mask):
    """An object's mask on one frame. It is empty where the object is not visible."""

    object: int
    """The number that the object was given."""
    score: float
    """A logit for its presence on the frame."""
    visible: bool
    """Whether the score is above 0."""

    @classmethod
    def from_reply(cls, value: dict[str, Any], *, size: tuple[int, int] | None) -> "TrackedMask":
        """Create it from an object of a reply that has a mask. Errors are those of Mask.from_dict."""
        mask = Mask.from_dict(value["masks"][0], size=size)
        known = {each.name: getattr(mask, each.name) for each in fields(Mask)}
        return cls(
            **known,
            object=int(value["object"]),
            score=float(value["score"]),
            visible=bool(value["visible"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """See Mask.to_dict."""
        return {**super().to_dict(), "object": self.object, "score": self.score, "visible": self.visible}


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFrame:
    """All objects on one frame, or why there is no answer for it."""

    index: int
    """The frame's number, from 0."""
    masks: Mapping[int, TrackedMask] = field(repr=False)
    """The masks by object, in the order in which objects were added. After a click, objects are left out whose mask
    the server no longer holds, because the frame was tracked too long ago: propagate over it again."""
    time: float | None = None
    """Seconds after the first frame of the file, for videos."""
    error: Sam2Error | None = None
    """Set if this frame alone failed, for example because it cannot be decoded. There are no masks then."""

    def overlay(self, picture: PictureSource, *, opacity: float = 0.55) -> Image.Image:
        """Return the picture of the frame in RGB with each object over it, in the colour of its number.

        Raises ValueError if the picture and the masks differ in size.
        """
        shown = open_picture(picture)
        for number, mask in self.masks.items():
            shown = mask.overlay(shown, color=COLORS[(number - 1) % len(COLORS)], opacity=opacity)
        return shown
