"""Videos on the wire: the fields of an upload, the replies, and which kind of picture a client wants a frame as.

Does not know what a video is.
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers

from app.codecs.video_times import Sampling
from app.errors import UnsupportedMediaType, VideoTooLarge
from app.routes.accepted import weight_of, weights
from app.routes.field_errors import explain, given_twice
from app.routes.forms import VIDEO_FIELDS, parse_form
from app.routes.image_ids import Id
from app.routes.schemas import Text

MOST_SECONDS = 1e6
LEAST_SECONDS = 1e-3

VideoId = Annotated[
    Id,
    Field(
        description="The id that POST /videos returned: the client's own name, or the SHA-256 of the uploaded "
        "bytes, with a hash of the options if there are any.",
        examples=["clip"],
    ),
]


class VideoFields(Text):
    """Fields that may accompany a video in a form or in the query."""

    video_id: VideoId | None = None
    replace: bool = Field(False, description="Whether video_id may be taken from another video.")
    fps: float | None = Field(
        None,
        ge=LEAST_SECONDS,
        le=1000,
        allow_inf_nan=False,
        description="Frames a second, by time: each frame is the one on screen then. Left out: every frame of the "
        "file.",
    )
    start_s: float | None = Field(
        None,
        ge=0,
        le=MOST_SECONDS,
        allow_inf_nan=False,
        description="Leave out what is before, in seconds after the file's first frame.",
    )
    end_s: float | None = Field(
        None,
        ge=LEAST_SECONDS,
        le=MOST_SECONDS,
        allow_inf_nan=False,
        description="Leave out what comes at this time or later.",
    )
    max_frames: int | None = Field(None, ge=1, le=10**9, description="Keep only so many, the first ones.")

    @property
    def sampling(self) -> Sampling:
        """The options that change the frames."""
        return Sampling(self.fps, self.start_s, self.end_s, self.max_frames)


class VideoReply(BaseModel):
    """A video, and when each of its frames is on screen."""

    video_id: str = Field(examples=["clip"])
    frames: int = Field(description="Their number. The first one is frame 0.", examples=[240])
    width: int = Field(description="Pixels, turned upright, with square pixels.", examples=[1920])
    height: int = Field(description="Likewise.", examples=[1080])
    fps: float = Field(description="As it was asked for, or the mean rate of the file.", examples=[24.0])
    times: list[float] = Field(
        description="Seconds after the file's first frame, one for each frame.", examples=[[0.0, 0.041667]]
    )


class ListedVideo(BaseModel):
    """Describes a stored video."""

    video_id: str
    width: int
    height: int
    bytes: int = Field(description="Size of its file.")
    created: float = Field(description="When this id was assigned, in seconds since 1970.")
    used: float = Field(description="When a frame was last asked for under this id, in seconds since 1970.")


class VideosReply(BaseModel):
    """Stored videos, newest first."""

    videos: list[ListedVideo]
    next: str | None = Field(
        None, description="Send it as `after` to get the next page; null on the last page."
    )


class VideoUpload(NamedTuple):
    """An uploaded video file and its fields."""

    data: bytes
    fields: VideoFields


def parse_video(body: bytes, *, headers: Headers, query: VideoFields, max_bytes: int) -> VideoUpload:
    """Extract the video from a form or a raw body. A field may be in the form or in `query`, not in both.

    Raises UnsupportedMediaType, BadRequest, ValidationFailed and, for a file beyond `max_bytes`, VideoTooLarge.
    """
    media_type, options = parse_options_header(headers.get("content-type", ""))
    fields: dict[str, str] = {}
    data = body
    if media_type == b"multipart/form-data":
        data, fields = parse_form(body, options.get(b"boundary", b""), files=VIDEO_FIELDS)
    elif not media_type.startswith(b"video/") and media_type not in (
        b"image/gif",
        b"application/octet-stream",
    ):
        named = (
            f"Content-Type {media_type.decode('latin-1')!r}" if media_type else "A body without Content-Type"
        )
        raise UnsupportedMediaType(
            f"{named} is not a video upload. Send multipart/form-data with a field 'video' (curl -F "
            "video=@clip.mp4), or a raw body with Content-Type video/*, image/gif or application/octet-stream "
            "(curl -H 'Content-Type: video/mp4' --data-binary @clip.mp4)."
        )
    if len(data) > max_bytes:
        raise VideoTooLarge(
            f"The video file is {len(data) / 2**20:.1f} MiB; the limit is {max_bytes / 2**20:g} "
            "(SAM2_MAX_VIDEO_MIB and SAM2_MAX_BODIES_MIB). Send a smaller file."
        )
    for name in sorted(query.model_fields_set & fields.keys()):
        raise given_twice(name, "in the query and in the body")
    try:
        return VideoUpload(
            data, VideoFields.model_validate({**query.model_dump(exclude_unset=True), **fields})
        )
    except ValidationError as error:
        raise explain(error) from error


def picture_type(headers: Headers) -> Literal["jpeg", "png"]:
    """Return the kind of picture that Accept prefers. JPEG if it prefers neither, or accepts neither."""
    accepted = weights(headers, "accept")
    return "png" if weight_of("image/png", accepted) > weight_of("image/jpeg", accepted) else "jpeg"
