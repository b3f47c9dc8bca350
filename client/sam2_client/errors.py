"""Exceptions: one for each error code of the service, and the client's own.

Does not know about replies, and when to retry.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypedDict


class Detail(TypedDict):
    """One problem of a request: the field, and what is wrong with it."""

    where: str
    what: str


class Sam2Error(Exception):
    """Base class of all failures of a call. `str(error)` is the server's own message.

    Each code has a subclass. A code that this version does not know is raised as a plain Sam2Error.
    """

    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        status: int | None = None,
        details: Sequence[Detail] = (),
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        """The code, as in the service's table of errors."""
        self.status = status
        """The HTTP status; None if there was no reply."""
        self.details = list(details)
        """Each wrong field of a rejected request, and what is wrong with it."""
        self.request_id = request_id
        """The id under which the server logged the request."""
        self.retry_after_s = retry_after_s
        """Seconds to wait before a retry, if the server says so (Retry-After)."""


class BadRequest(Sam2Error):
    """The server could not parse the request."""

    default_code = "bad_request"


class OriginRefused(Sam2Error):
    """The request came from a web page of another site, which the server does not allow."""

    default_code = "origin_refused"


class Unauthorized(Sam2Error):
    """The server requires a key, and it is missing or wrong."""

    default_code = "unauthorized"


class ImageNotFound(Sam2Error):
    """The server has no embedding with that id, and the client has no picture to embed again."""

    default_code = "image_not_found"


class ImageIdConflict(Sam2Error):
    """The id belongs to another picture."""

    default_code = "image_id_conflict"


class ImageTooLarge(Sam2Error):
    """The picture has more bytes or pixels than the server accepts."""

    default_code = "image_too_large"


class UnsupportedMediaType(Sam2Error):
    """The body is not a picture upload."""

    default_code = "unsupported_media_type"


class HostNotAllowed(Sam2Error):
    """The host name of this URL is not one of the server's SAM2_ALLOWED_HOSTS."""

    default_code = "host_not_allowed"


class RequestHeadTooLarge(Sam2Error):
    """The request's headers are too large, for example because a proxy adds to them."""

    default_code = "request_head_too_large"


class InvalidImage(Sam2Error):
    """The upload is truncated, zero-sized or not a picture."""

    default_code = "invalid_image"


class InvalidPrompt(Sam2Error):
    """The prompt does not fit its picture."""

    default_code = "invalid_prompt"


class ValidationFailed(Sam2Error):
    """Fields of the request are missing, unknown, of the wrong type or out of range."""

    default_code = "validation_error"


class RateLimited(Sam2Error):
    """The client exceeded its limits, and all retries failed too."""

    default_code = "rate_limited"


class InferenceFailed(Sam2Error):
    """The model failed on this request. The server continues."""

    default_code = "inference_failed"


class InternalError(Sam2Error):
    """The server failed. Its log has the details under `request_id`."""

    default_code = "internal_error"


class Overloaded(Sam2Error):
    """The server's queue is full, and all retries failed too."""

    default_code = "overloaded"


class NotReady(Sam2Error):
    """The server's model is still loading, or loading it failed."""

    default_code = "not_ready"


class ShuttingDown(Sam2Error):
    """The server is shutting down."""

    default_code = "shutting_down"


class DeadlineExceeded(Sam2Error):
    """The server did not finish the request within its own deadline."""

    default_code = "deadline_exceeded"


class VideoNotFound(Sam2Error):
    """The server has no video with that id, and the client has no file to upload again."""

    default_code = "video_not_found"


class FrameNotFound(Sam2Error):
    """The video has fewer frames."""

    default_code = "frame_not_found"


class TrackNotFound(Sam2Error):
    """The server has no track with that id, and this client cannot begin it again."""

    default_code = "track_not_found"


class VideoIdConflict(Sam2Error):
    """The id belongs to another video, or to this one with other options."""

    default_code = "video_id_conflict"


class TrackIdConflict(Sam2Error):
    """The id belongs to another track."""

    default_code = "track_id_conflict"


class TrackBusy(Sam2Error):
    """The track is being propagated, and nothing else can use it meanwhile."""

    default_code = "track_busy"


class NamesUnreachable(Sam2Error):
    """The server does not reach the database of its names, which the request needs. Asked again a few times."""

    default_code = "names_unreachable"


class VideoTooLarge(Sam2Error):
    """The video has more bytes or frames than the server accepts."""

    default_code = "video_too_large"


class InvalidVideo(Sam2Error):
    """The upload is cut off, is not a video, or no frame of it can be decoded."""

    default_code = "invalid_video"


class InvalidFrame(Sam2Error):
    """A frame of a video cannot be decoded; others may be."""

    default_code = "invalid_frame"


class TrackingUnavailable(Sam2Error):
    """The server's weights cannot follow objects."""

    default_code = "tracking_unavailable"


class ConnectionFailed(Sam2Error):
    """The server could not be reached, or the connection broke during the request."""

    default_code = "connection_failed"


class TimedOut(Sam2Error):
    """The server did not reply within this client's timeout."""

    default_code = "timed_out"


class UnexpectedReply(Sam2Error):
    """The reply is not one of this service. It may come from another server, or from a proxy."""

    default_code = "unexpected_reply"


class PictureChanged(Sam2Error):
    """The file has changed since it was embedded, so its masks would belong to another picture."""

    default_code = "picture_changed"


BY_CODE: Mapping[str, type[Sam2Error]] = {
    error.default_code: error
    for error in (
        BadRequest,
        OriginRefused,
        Unauthorized,
        ImageNotFound,
        ImageIdConflict,
        ImageTooLarge,
        UnsupportedMediaType,
        HostNotAllowed,
        RequestHeadTooLarge,
        InvalidImage,
        InvalidPrompt,
        ValidationFailed,
        RateLimited,
        InferenceFailed,
        InternalError,
        Overloaded,
        NotReady,
        ShuttingDown,
        DeadlineExceeded,
        VideoNotFound,
        FrameNotFound,
        TrackNotFound,
        VideoIdConflict,
        TrackIdConflict,
        TrackBusy,
        NamesUnreachable,
        VideoTooLarge,
        InvalidVideo,
        InvalidFrame,
        TrackingUnavailable,
    )
}
"""The service's errors, by the code in the reply's body."""
