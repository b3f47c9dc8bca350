"""All errors that a request can get, each with its HTTP status and its code.

Does not know about FastAPI; routes/error_replies.py turns these into replies.
"""

from collections.abc import Sequence
from typing import ClassVar, TypedDict

_STOPPING = "The server is shutting down. Retry in a moment."


class Detail(TypedDict):
    """One thing that is wrong with a request: where it is and what is wrong."""

    where: str
    what: str


class ServiceError(Exception):
    """A request that gets an error reply. The message says what is wrong and what to do about it."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, details: Sequence[Detail] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = list(details)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the reply."""
        return {}


class BadRequest(ServiceError):
    """The body cannot be parsed at all: not JSON, not multipart, cut off."""

    status = 400
    code = "bad_request"


class BodyTooSlow(BadRequest):
    """The body arrives too slowly or not at all. The server does not wait for the rest of it."""

    @property
    def headers(self) -> dict[str, str]:
        """Close the connection after this reply."""
        return {"Connection": "close"}


class Unauthorized(ServiceError):
    """The server requires an API key, and the request's is missing or wrong."""

    status = 401
    code = "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        """How to send a key (RFC 6750)."""
        return {"WWW-Authenticate": 'Bearer realm="sam2"'}


class OriginRefused(ServiceError):
    """A page of a site that may not call this server opened a WebSocket, or sent something."""

    status = 403
    code = "origin_refused"


class NoWebSocket(ServiceError):
    """A WebSocket to a path that has none."""

    status = 404
    code = "not_found"


class ImageNotFound(ServiceError):
    """There is no embedding under this id."""

    status = 404
    code = "image_not_found"

    @classmethod
    def for_id(cls, image_id: str) -> "ImageNotFound":
        """An id for which there is no embedding."""
        return cls(f"No embedding for image_id {image_id!r}. POST the picture to /embed first.")

    @classmethod
    def fallen_out(cls, image_id: str) -> "ImageNotFound":
        """The image is known, but its embedding was evicted or was made by another model."""
        return cls(
            f"The embedding of image_id {image_id!r} is no longer available. POST the picture to /embed again. "
            "With SAM2_DISK_CACHE_MIB and SAM2_KEEP_UPLOADS a server keeps more."
        )

    @classmethod
    def deleted_meanwhile(cls, image_id: str) -> "ImageNotFound":
        """A DELETE arrived while the picture was being embedded; the DELETE takes precedence."""
        return cls(
            f"image_id {image_id!r} was deleted while its picture was being embedded. If you still need it, POST "
            "the picture to /embed again."
        )


class VideoNotFound(ServiceError):
    """There is no video under this id."""

    status = 404
    code = "video_not_found"

    @classmethod
    def for_id(cls, video_id: str) -> "VideoNotFound":
        """An id that no video has."""
        return cls(f"No video has the video_id {video_id!r}. POST it to /videos first.")

    @classmethod
    def deleted_meanwhile(cls, video_id: str) -> "VideoNotFound":
        """A DELETE arrived during the upload; the DELETE takes precedence."""
        return cls(
            f"video_id {video_id!r} was deleted during its upload. If you still need it, POST the video to /videos "
            "again."
        )

    @classmethod
    def fallen_out(cls, video_id: str) -> "VideoNotFound":
        """The video is known, but its file was evicted."""
        return cls(
            f"The file of video_id {video_id!r} is no longer available. POST it to /videos again. With "
            "SAM2_VIDEO_CACHE_MIB a server keeps more."
        )


class FrameNotFound(ServiceError):
    """The video has fewer frames."""

    status = 404
    code = "frame_not_found"


class ImageIdConflict(ServiceError):
    """The id already belongs to another picture."""

    status = 409
    code = "image_id_conflict"

    @classmethod
    def for_id(cls, image_id: str) -> "ImageIdConflict":
        """An id that is taken."""
        return cls(
            f"image_id {image_id!r} already belongs to another picture. Use another id, or send replace=true."
        )


class VideoIdConflict(ServiceError):
    """The id already belongs to another video."""

    status = 409
    code = "video_id_conflict"

    @classmethod
    def for_id(cls, video_id: str) -> "VideoIdConflict":
        """An id that is taken."""
        return cls(
            f"video_id {video_id!r} already belongs to another video, or to this one with other fps, start_s, "
            "end_s or max_frames. Use another id, or send replace=true."
        )


class VideoTooLarge(ServiceError):
    """Too many bytes or too many frames, found before the frames are decoded."""

    status = 413
    code = "video_too_large"


class ImageTooLarge(ServiceError):
    """Too many bytes or too many pixels, found before any pixel is decoded."""

    status = 413
    code = "image_too_large"


class UnsupportedMediaType(ServiceError):
    """The body is not a picture upload."""

    status = 415
    code = "unsupported_media_type"


class UnsupportedEncoding(UnsupportedMediaType):
    """The body is compressed, or otherwise encoded. The server does not unpack: a kilobyte may hold a gigabyte."""

    @property
    def headers(self) -> dict[str, str]:
        """What is accepted (RFC 9110)."""
        return {"Accept-Encoding": "identity"}


class Misdirected(ServiceError):
    """The Host header is not a name of this server: SAM2_ALLOWED_HOSTS, against DNS rebinding."""

    status = 421
    code = "host_not_allowed"


class RequestHeadTooLarge(ServiceError):
    """The head of the request has too many bytes or headers."""

    status = 431
    code = "request_head_too_large"


class InvalidImage(ServiceError):
    """The file is truncated, not a picture, or has a size of zero."""

    status = 422
    code = "invalid_image"


class InvalidVideo(ServiceError):
    """The file is cut off, not a video, or has no frame that can be decoded."""

    status = 422
    code = "invalid_video"


class InvalidFrame(ServiceError):
    """One frame of a video cannot be decoded; others may be."""

    status = 422
    code = "invalid_frame"

    @classmethod
    def of_number(cls, number: int, time_s: float) -> "InvalidFrame":
        """The frame of that number, which is on screen at that time."""
        return cls(
            f"Frame {number} (at {time_s:g} s) cannot be decoded: its data are broken. The next one may be whole."
        )


class InvalidPrompt(ServiceError):
    """The prompt can be parsed but does not make sense for its picture."""

    status = 422
    code = "invalid_prompt"


class ValidationFailed(ServiceError):
    """Fields are missing, unknown, or of the wrong type or range."""

    status = 422
    code = "validation_error"


class RetryableError(ServiceError):
    """An error after which a client may retry, `retry_after_s` seconds later (Retry-After header)."""

    def __init__(self, message: str, *, retry_after_s: int = 1, details: Sequence[Detail] = ()) -> None:
        super().__init__(message, details=details)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """When to retry, in seconds."""
        return {"Retry-After": str(self.retry_after_s)}


class RateLimited(RetryableError):
    """The client exceeded its own limit; other clients are served."""

    status = 429
    code = "rate_limited"


class InferenceFailed(ServiceError):
    """The model failed on this batch; the server continues."""

    code = "inference_failed"


class NotOffered(ServiceError):
    """A tool asked for something that its door does not have."""

    status = 501
    code = "not_offered"


class Overloaded(RetryableError):
    """The queue is full, or too long for the deadline."""

    status = 503
    code = "overloaded"


class NotReady(RetryableError):
    """The server cannot answer: the model is loading or failed to load, or its device is stuck."""

    status = 503
    code = "not_ready"


class ShuttingDown(RetryableError):
    """The server is stopping. Waiting requests get this error."""

    status = 503
    code = "shutting_down"

    def __init__(
        self, message: str = _STOPPING, *, retry_after_s: int = 2, details: Sequence[Detail] = ()
    ) -> None:
        # The same arguments as every ServiceError, because copy.copy calls it with them.
        super().__init__(message, retry_after_s=retry_after_s, details=details)


class DeadlineExceeded(ServiceError):
    """The request waited longer than SAM2_DEADLINE_S."""

    status = 504
    code = "deadline_exceeded"
