"""The wire format: requests and replies.

Types and ranges only; codecs/prompts.py checks prompts against their picture.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema

from app.codecs.deep import Stretch
from app.codecs.long_text import Pieces
from app.codecs.prompts import MAX_POINTS
from app.routes.image_ids import ImageId
from app.routes.mask_fields import WHOLE, MaskFields, Wire

MOST_PROMPTS = 4096
"""Upper limit of SAM2_MAX_PROMPTS. A longer list is rejected before it takes memory."""

_EXAMPLE_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAA4QAAAJYAQAAAAASvhV2AAAAmklEQVR42u3PwQkAMAgEQWP/PWsNQZAEZv7nYgQAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAMBbzv2kZrdy/UdFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVF"
    "RUVFRUVFRUVFRUVFRUVFRUVFRUVFRQAAAAAAAAAAAAAAAAAAAAD4SwOmmAIsUF1QQQAAAABJRU5ErkJggg=="
)
"""A white box on black, 900 x 600, so that the examples in /docs work unchanged."""

Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Point = Annotated[list[Coordinate], Field(min_length=2, max_length=2)]
PointCoords = Annotated[list[Point], Field(max_length=MAX_POINTS, fail_fast=True)]
PointLabels = Annotated[
    list[Annotated[int, Field(ge=0, le=1), WHOLE]], Field(max_length=MAX_POINTS, fail_fast=True)
]
Box = Annotated[list[Coordinate], Field(min_length=4, max_length=4)]


class Rle(Wire):
    """A mask in COCO RLE: column-major runs, the first one background."""

    size: Annotated[list[Annotated[int, Field(ge=1), WHOLE]], Field(min_length=2, max_length=2)] = Field(
        description="Height and width of the mask.", examples=[[1200, 1800]]
    )
    # Validation stops at the first wrong number: a million errors would take a thousand times the list's memory.
    counts: Annotated[
        Annotated[str, Tag("string")] | Annotated[list[int], Field(fail_fast=True), Tag("list")],
        Discriminator(lambda value: "string" if isinstance(value, str) else "list"),
    ] = Field(description="COCO's compressed string, or the list of run lengths.")


class PromptBody(Wire):
    """One object to segment. Every field is optional, but not all at once."""

    point_coords: PointCoords | None = Field(
        None, description="Clicks as [x, y] in pixels of the picture.", examples=[[[500, 375]]]
    )
    point_labels: PointLabels | None = Field(
        None, description="For each click, 1: the object; 0: not the object.", examples=[[1]]
    )
    box: Box | None = Field(None, description="x0, y0, x1, y1 with x0 < x1 and y0 < y1.")
    mask_input: (
        Annotated[
            Annotated[str, Tag("logits")] | Annotated[Rle, Tag("rle")],
            Discriminator(lambda value: "logits" if isinstance(value, str) else "rle"),
        ]
        | None
    ) = Field(None, description="Logits of an earlier reply, or a COCO RLE mask at the picture's size.")
    multimask_output: bool | None = Field(
        None, description="Three masks, or one. Left out: three for one lone click, one otherwise."
    )


class PromptsBody(PromptBody, MaskFields):
    """Prompts for one picture. The fields of a single prompt may be given instead of `prompts`."""

    prompts: (
        Annotated[list[PromptBody], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)] | None
    ) = Field(None, description="Any mix of prompts; one prediction for each, in order.")

    @model_validator(mode="after")
    def _one_way_of_prompting(self) -> Self:
        # A null is a field that is left out: clients that are generated from openapi.json write all fields.
        beside = sorted(name for name in PromptBody.model_fields if getattr(self, name) is not None)
        if self.prompts is not None and beside:
            raise ValueError(
                f"{', '.join(beside)} given next to 'prompts': put them into a prompt of the list"
            )
        return self

    def all_prompts(self) -> Sequence[PromptBody]:
        """The prompts of the request, in either form."""
        return self.prompts if self.prompts is not None else [self]


class DecodeBody(PromptsBody):
    """Prompts for one embedded picture."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"image_id": "example", "point_coords": [[500, 375]], "point_labels": [1]}],
        }
    )

    image_id: ImageId


STRETCH = (
    "How a picture of more than 8 bits becomes one of 8. range: from its smallest to its largest value; "
    "percentile: leaving out the darkest and brightest 0.1 %, and what stands for no data; none: from 0 to the "
    "largest value of its type. Read in another way, it is another picture: its own id has the word at its end."
)


class _ReadAsString:
    """Makes pydantic read and describe a field as a string; json_bodies.py puts Pieces there afterwards."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler(str)


LongText: TypeAlias = Annotated[str | Pieces, _ReadAsString()]
"""The type of a field for such strings. It may have no constraints, because Pieces are not checked."""


class EmbedBody(Wire):
    """A picture as JSON."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"image_id": "example", "image": _EXAMPLE_PICTURE}],
            "oneOf": [{"required": ["image"]}, {"required": ["url"]}],
        }
    )

    image: LongText | None = Field(None, description="The picture file in base64, or as a data URL.")
    url: str | None = Field(
        None,
        max_length=8192,
        description="Instead of `image`: an https URL to fetch the picture from, on servers with SAM2_ALLOW_URLS.",
        examples=["https://pictures.example/truck.jpg"],
    )
    image_id: ImageId | None = Field(None)
    replace: bool = Field(False, description="Whether image_id may be taken from another picture.")
    stretch: Stretch = Field("range", description=STRETCH)


class Text(BaseModel):
    """Fields of a form or a query. They are text, so values are parsed. Rejects unknown fields."""

    model_config = ConfigDict(extra="forbid")


class EmbedFields(Text):
    """Fields that may accompany a picture in a form or in the query."""

    image_id: ImageId | None = None
    replace: bool = Field(False, description="Whether image_id may be taken from another picture.")
    stretch: Stretch = Field("range", description=STRETCH)


class NoFields(Text):
    """The query of an endpoint that takes no parameters."""


class PageQuery(Text):
    """Which of the stored pictures to list."""

    limit: int = Field(100, ge=1, le=1000)
    after: str | None = Field(
        None, description="`next` of the previous page, or an id. What it names may have been deleted since."
    )


class EmbeddingQuery(Text):
    """The file format of an embedding."""

    format: Literal["npz", "safetensors"] = "npz"
    dtype: Literal["float16", "float32"] = "float32"


class EmbedReply(BaseModel):
    """The picture is embedded and can be decoded by its id."""

    image_id: str = Field(examples=["truck"])
    width: int = Field(description="Pixels, after EXIF orientation.", examples=[1800])
    height: int = Field(description="Pixels, after EXIF orientation.", examples=[1200])
    model: str = Field(examples=["sam2.1_hiera_large"])
    cached: bool = Field(description="Whether no encoder ran for this request.")


class MaskReply(BaseModel):
    """One mask at the picture's size, in the requested format."""

    rle: Rle | None = None
    polygons: list[list[list[float]]] | None = Field(None, description="Outer rings of [x, y].")
    holes: list[list[list[float]]] | None = Field(None, description="Rings of [x, y] around holes.")
    png: str | None = Field(None, description="A one-bit PNG in base64.")
    iou: float = Field(description="The model's own estimate of the mask's IoU, 0..1.", examples=[0.981])
    stability: float = Field(description="IoU of the mask thresholded at +1 and at -1 of its logits.")
    area: int = Field(description="Pixels of the mask.")
    bounds: tuple[int, int, int, int] | None = Field(
        None,
        description="x0, y0, x1, y1: the part of the picture that the mask covers; x1 and y1 are exclusive. "
        "An empty mask has one background pixel.",
    )
    bbox: tuple[int, int, int, int] = Field(description="x, y, width, height; zeros for an empty mask.")
    logits: str | None = Field(None, description="Send it back as mask_input to refine this mask.")


class PredictionReply(BaseModel):
    """The masks of one prompt, best predicted IoU first."""

    masks: list[MaskReply]


class DecodeReply(BaseModel):
    """One prediction for each prompt, in order."""

    image_id: str
    width: int
    height: int
    model: str
    predictions: list[PredictionReply]


class ImageReply(BaseModel):
    """Describes a stored picture."""

    image_id: str
    width: int
    height: int
    model: str
    bytes: int = Field(description="Size of its embedding in bytes.")
    created: float = Field(description="When this id was assigned, in seconds since 1970.")
    used: float = Field(description="When it was last used under this id, in seconds since 1970.")
    tiers: list[Literal["device", "host", "disk"]] = Field(
        description="Where its embedding is held. Empty: embed it again, unless the server keeps uploads."
    )


class ImagesReply(BaseModel):
    """Stored pictures, newest first."""

    images: list[ImageReply]
    next: str | None = Field(
        None, description="Send it as `after` to get the next page; null on the last page."
    )


class LimitsReply(BaseModel):
    """Limits of the server."""

    max_upload_mib: int
    max_image_megapixels: float
    max_video_mib: int
    max_video_frames: int
    max_prompts: int
    max_points: int
    deadline_s: float
    everything_deadline_s: float
    device_cache_mib: int = Field(description="Where SAM2_DEVICE_CACHE_MIB is auto, the size that was found.")
    host_cache_mib: int = Field(description="Likewise. 0 if the device is the host.")
    disk_cache_mib: int
    image_ttl_s: float = Field(description="Seconds after which an image is forgotten; 0: never.")


class TrackLimits(BaseModel):
    """How objects are followed through videos, and what a client may hold."""

    tracker: Literal["memory", "mask_prompt"] = Field(description="As in the replies of /tracks.")
    max_tracks: int = Field(description="Of one client; beyond, the one used longest ago is forgotten.")
    max_frames: int
    max_objects: int
    max_prompts: int = Field(description="Of one track.")
    bytes_per_object_and_frame: int = Field(description="Held of each frame that a later one can see.")
    memory_mib: int = Field(description="For all tracks together.")


class EverythingDefaults(BaseModel):
    """The options of /everything whose defaults are the model's own."""

    pred_iou_thresh: float
    stability_score_thresh: float
    box_nms_thresh: float


class ModelReply(BaseModel):
    """The model and the limits of the server."""

    model: str
    variant: str
    fingerprint: str = Field(description="Identifies model, weights, preprocessing and precision.")
    device: str
    dtype: str
    mask_size: tuple[int, int] = Field(description="Height and width of the low-resolution logits.")
    everything: EverythingDefaults
    limits: LimitsReply
    tracks: TrackLimits | None = Field(description="null where SAM2_VIDEO is off: there are none.")


class StatusReply(BaseModel):
    """Status of the server."""

    status: Literal["ok", "ready"]
    names: Literal["unreachable"] | None = Field(
        None,
        description="unreachable while the database of SAM2_REGISTER_URL cannot be used: new pictures wait or get "
        "503 names_unreachable, known ones are served.",
    )


def schema_ref(model: type[BaseModel]) -> dict[str, Any]:
    """Return the reference to a model of this file in openapi.json."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}
