"""A client of the SAM 2 service: embed a picture once, click on it, get masks.

    from sam2_client import Client

    with Client("http://127.0.0.1:8000") as client:
        image = client.embed("truck.jpg")
        best, *others = image.decode(points=[(500, 375)])
        best.overlay("truck.jpg").save("over.png")

Needs neither torch nor the service's own code.
"""

from sam2_client.async_client import AsyncClient, AsyncImage
from sam2_client.client import Client, Image
from sam2_client.errors import (
    BadRequest,
    ConnectionFailed,
    DeadlineExceeded,
    Detail,
    HostNotAllowed,
    ImageIdConflict,
    ImageNotFound,
    ImageTooLarge,
    InferenceFailed,
    InternalError,
    InvalidImage,
    InvalidPrompt,
    NotReady,
    OriginRefused,
    Overloaded,
    PictureChanged,
    RateLimited,
    RequestHeadTooLarge,
    Sam2Error,
    ShuttingDown,
    TimedOut,
    Unauthorized,
    UnexpectedReply,
    UnsupportedMediaType,
    ValidationFailed,
)
from sam2_client.everything_options import EverythingOptions
from sam2_client.found_masks import FoundMask
from sam2_client.images import EmbedResult, Model
from sam2_client.masks import Mask
from sam2_client.outlines import Outlines
from sam2_client.pictures import LargePictureWarning, PictureSource
from sam2_client.prompts import Prompt
from sam2_client.version import __version__

__all__ = [
    "AsyncClient",
    "AsyncImage",
    "BadRequest",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Detail",
    "EmbedResult",
    "EverythingOptions",
    "FoundMask",
    "HostNotAllowed",
    "Image",
    "ImageIdConflict",
    "ImageNotFound",
    "ImageTooLarge",
    "InferenceFailed",
    "InternalError",
    "InvalidImage",
    "InvalidPrompt",
    "LargePictureWarning",
    "Mask",
    "Model",
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
    "Unauthorized",
    "UnexpectedReply",
    "UnsupportedMediaType",
    "ValidationFailed",
    "__version__",
]
