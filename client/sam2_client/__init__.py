"""A client of the SAM 2 service: embed a picture once, click on it, get masks.

    from sam2_client import Client

    with Client("http://127.0.0.1:8000") as client:
        image = client.embed("truck.jpg")
        best, *others = image.decode(points=[(500, 375)])
        best.overlay("truck.jpg").save("over.png")

Needs neither torch nor the service's own code.
"""

from sam2_client.async_client import AsyncClient
from sam2_client.async_image import AsyncImage
from sam2_client.async_track import AsyncTrack, AsyncVideo
from sam2_client.client import Client
from sam2_client.errors import (
    BadRequest,
    ConnectionFailed,
    DeadlineExceeded,
    Detail,
    FrameNotFound,
    HostNotAllowed,
    ImageIdConflict,
    ImageNotFound,
    ImageTooLarge,
    InferenceFailed,
    InternalError,
    InvalidFrame,
    InvalidImage,
    InvalidPrompt,
    InvalidVideo,
    NamesUnreachable,
    NotReady,
    OriginRefused,
    Overloaded,
    PictureChanged,
    RateLimited,
    RequestHeadTooLarge,
    Sam2Error,
    ShuttingDown,
    TimedOut,
    TrackBusy,
    TrackIdConflict,
    TrackingUnavailable,
    TrackNotFound,
    Unauthorized,
    UnexpectedReply,
    UnsupportedMediaType,
    ValidationFailed,
    VideoIdConflict,
    VideoNotFound,
    VideoTooLarge,
)
from sam2_client.everything_options import EverythingOptions
from sam2_client.found_masks import FoundMask
from sam2_client.images import EmbedResult, Model
from sam2_client.masks import Mask
from sam2_client.outlines import Outlines
from sam2_client.pictures import LargePictureWarning, PictureSource
from sam2_client.prompts import Prompt, TrackPrompt
from sam2_client.sync_image import Image
from sam2_client.sync_track import Track, Video
from sam2_client.tracked import TrackedFrame, TrackedMask
from sam2_client.version import __version__

__all__ = [
    "AsyncClient",
    "AsyncImage",
    "AsyncTrack",
    "AsyncVideo",
    "BadRequest",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Detail",
    "EmbedResult",
    "EverythingOptions",
    "FoundMask",
    "FrameNotFound",
    "HostNotAllowed",
    "Image",
    "ImageIdConflict",
    "ImageNotFound",
    "ImageTooLarge",
    "InferenceFailed",
    "InternalError",
    "InvalidFrame",
    "InvalidImage",
    "InvalidPrompt",
    "InvalidVideo",
    "LargePictureWarning",
    "Mask",
    "Model",
    "NamesUnreachable",
    "NotReady",
    "OriginRefused",
    "Outlines",
    "Overloaded",
    "PictureChanged",
    "PictureSource",
    "Prompt",
    "RateLimited",
    "RequestHeadTooLarge",
    "Sam2Error",
    "ShuttingDown",
    "TimedOut",
    "Track",
    "TrackBusy",
    "TrackIdConflict",
    "TrackNotFound",
    "TrackPrompt",
    "TrackedFrame",
    "TrackedMask",
    "TrackingUnavailable",
    "Unauthorized",
    "UnexpectedReply",
    "UnsupportedMediaType",
    "ValidationFailed",
    "Video",
    "VideoIdConflict",
    "VideoNotFound",
    "VideoTooLarge",
    "__version__",
]
