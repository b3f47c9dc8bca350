"""Tracks on the wire: the fields of requests, and the replies. Types and ranges only."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from app.routes.image_ids import Id, ImageId
from app.routes.mask_fields import WHOLE, MaskFields, Wire
from app.routes.schemas import MaskReply, PromptBody
from app.routes.video_fields import VideoId
from app.service.prompt_history import MOST_PROMPTS
from app.service.track_values import Frames, Range, Way
from app.settings import MOST_VIDEO_FRAMES

TrackId = Annotated[
    Id,
    Field(
        description="The id that POST /tracks returned: the client's own name, or a random one.",
        examples=["walk"],
    ),
]
ObjectId = Annotated[
    int, Field(ge=0, le=2**31 - 1, description="The client's own number.", examples=[1]), WHOLE
]
FrameNumber = Annotated[int, Field(ge=0, le=MOST_VIDEO_FRAMES, description="From 0.", examples=[0]), WHOLE]


class FramesFields(Wire):
    """Which frames, all of one size."""

    frames: (
        Annotated[list[ImageId], Field(min_length=1, max_length=MOST_VIDEO_FRAMES, fail_fast=True)] | None
    ) = Field(None, description="Ids of embedded pictures, in order.")
    video_id: VideoId | None = Field(None, description="Instead of `frames`: all frames of a stored video.")
    corrections: Literal["kept", "meta"] = Field(
        "kept",
        description="What becomes of a prompt on a frame that was tracked before, when it is tracked again: it is "
        "kept, or lost as in Meta's predictor.",
    )

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if (self.frames is None) == (self.video_id is None):
            raise ValueError("give either frames or video_id")
        return self

    def all_frames(self) -> Frames:
        """Convert them for the service."""
        return Frames(tuple(self.frames or ()), self.video_id)


class TrackBody(FramesFields):
    """Begin a track."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"frames": ["example", "example"]}]})

    track_id: TrackId | None = Field(None)


class ObjectPrompt(PromptBody):
    """Where an object is on a frame."""

    frame: FrameNumber
    object: ObjectId
    multimask_output: Annotated[bool | None, WithJsonSchema({"type": "null"})] = Field(
        None, description="Not for tracks: an object has one mask."
    )
    clear: bool = Field(
        False, description="Replace the object's earlier clicks on this frame. A box needs it."
    )

    @model_validator(mode="after")
    def _shows_one_mask(self) -> Self:
        if self.multimask_output is not None:
            raise ValueError("multimask_output: a track has one mask for each object; leave it out")
        return self


class ShownFields(MaskFields):
    """The format of the masks, and whether those of several objects may overlap."""

    non_overlapping: bool = Field(
        False,
        description="Each pixel belongs to the object with the highest logit. What is remembered stays.",
    )


class TrackPromptBody(ObjectPrompt, ShownFields):
    """A prompt for one object."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"frame": 0, "object": 1, "point_coords": [[500, 375]], "point_labels": [1]}]
        }
    )


class RangeFields(ShownFields):
    """Which frames to pass, and which way."""

    first: FrameNumber | None = Field(
        None,
        alias="from",
        description="Left out: where a propagation was stopped, unless prompts have changed since; otherwise the "
        "earliest frame with a prompt.",
    )
    last: FrameNumber | None = Field(
        None, alias="to", description="The last frame, included. Left out: the end that way."
    )
    direction: Way = Field(
        "forward", description="both: forward from the start, then backward from before it."
    )

    def range(self) -> Range:
        """Convert it for the service."""
        return Range(self.first, self.last, self.direction)


class PropagateBody(RangeFields):
    """Follow the objects of a track."""


class PropagateOnceBody(FramesFields, RangeFields):
    """Frames, prompts and a range in one request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "frames": ["example", "example"],
                    "prompts": [{"frame": 0, "object": 1, "point_coords": [[500, 375]], "point_labels": [1]}],
                }
            ]
        }
    )

    prompts: Annotated[list[ObjectPrompt], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]


class TrackReply(BaseModel):
    """A new track."""

    track_id: str = Field(examples=["walk"])
    frames: int = Field(description="Their number.")
    width: int
    height: int
    model: str
    tracker: Literal["memory", "mask_prompt"] = Field(
        description="memory: SAM 2's. mask_prompt: each mask is the prompt of the next frame; a model that knows "
        "pictures only does this."
    )


class PromptOfTrack(BaseModel):
    """One prompt, as it was sent."""

    point_coords: Sequence[Sequence[float]] | None = None
    point_labels: Sequence[int] | None = None
    box: Sequence[float] | None = None
    has_mask: bool = Field(description="Whether it was a mask_input, which is not repeated here.")
    clear: bool


class ObjectOfTrack(BaseModel):
    """An object and its prompts."""

    object: int
    prompts: dict[int, list[PromptOfTrack]] = Field(
        description="By frame, in the order given; without those that were replaced."
    )


class NextReply(BaseModel):
    """Where propagations that were stopped go on, if `from` is left out."""

    forward: int | None
    backward: int | None


class TrackDescription(TrackReply):
    """Describes a track."""

    video_id: str | None
    corrections: Literal["kept", "meta"]
    objects: list[ObjectOfTrack] = Field(description="In the order added.")
    done: list[tuple[int, int]] = Field(description="Ranges of frames that were tracked, first and last.")
    next: NextReply
    bytes: int = Field(description="What is remembered of its objects at this moment.")
    created: float = Field(description="In seconds since 1970.")
    used: float


class TracksReply(BaseModel):
    """Tracks, newest first."""

    tracks: list[TrackDescription]
    next: str | None = Field(
        None, description="Send it as `after` to get the next page; null on the last page."
    )


class ObjectReply(BaseModel):
    """One object on a frame."""

    object: int
    masks: list[MaskReply] = Field(
        description="One mask; none if the frame was tracked too long ago for that: propagate over it again."
    )
    score: float = Field(description="A logit for its presence on the frame.")
    visible: bool = Field(description="Whether the score is above 0.")


class FrameReply(BaseModel):
    """All objects on a frame, in the order added."""

    frame: int
    objects: list[ObjectReply]


class ClearedReply(BaseModel):
    """An object's prompts on a frame are gone."""

    dropped: str | None = Field(
        None, description="A sentence, if the object was dropped because it has no prompt any more."
    )
