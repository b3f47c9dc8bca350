"""Everything that can go wrong with a request, each with its HTTP status and its code.

Knows nothing of FastAPI; main.py turns these into replies.
"""

from collections.abc import Sequence
from typing import ClassVar, TypedDict


class Detail(TypedDict):
    """One thing that is wrong with a request: where it stands and what is wrong with it."""

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
        """What of it stands in the head of the reply."""
        return {}


class BadRequest(ServiceError):
    """The body cannot be parsed at all: not JSON, not multipart, cut off."""

    status = 400
    code = "bad_request"


class BodyTooSlow(BadRequest):
    """A body that does not come; the rest of it is not waited for."""

    @property
    def headers(self) -> dict[str, str]:
        """That the connection ends with this reply."""
        return {"Connection": "close"}


class Unauthorized(ServiceError):
    """A key is asked for, and it is missing or wrong."""

    status = 401
    code = "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        """How a key is sent: RFC 6750."""
        return {"WWW-Authenticate": 'Bearer realm="sam2"'}


class OriginRefused(ServiceError):
    """A page of a site that may not call opens a WebSocket."""

    status = 403
    code = "origin_refused"


class ImageNotFound(ServiceError):
    """No embedding by that id."""

    status = 404
    code = "image_not_found"

    @classmethod
    def for_id(cls, image_id: str) -> "ImageNotFound":
        """The message that tells what to do about a missing embedding."""
        return cls(f"No embedding for image_id {image_id!r}. POST the picture to /embed first.")

    @classmethod
    def fallen_out(cls, image_id: str) -> "ImageNotFound":
        """The image is known; its embedding had to give way, or is another model's."""
        return cls(
            f"The embedding of image_id {image_id!r} is not held any more. POST the picture to /embed again; "
            "SAM2_DISK_CACHE_MIB and SAM2_KEEP_UPLOADS make a server keep more."
        )

    @classmethod
    def deleted_meanwhile(cls, image_id: str) -> "ImageNotFound":
        """A DELETE came while the picture was being embedded, and it counts."""
        return cls(
            f"image_id {image_id!r} was deleted while its picture was being embedded. POST the picture to /embed "
            "again if it shall be back."
        )


class ImageIdConflict(ServiceError):
    """The id names another picture."""

    status = 409
    code = "image_id_conflict"

    @classmethod
    def for_id(cls, image_id: str) -> "ImageIdConflict":
        """The message that tells what to do about a name that is taken."""
        return cls(
            f"image_id {image_id!r} already names another picture. Use another id, or send replace=true."
        )


class ImageTooLarge(ServiceError):
    """Too many bytes or too many pixels, found before any pixel is decoded."""

    status = 413
    code = "image_too_large"


class UnsupportedMediaType(ServiceError):
    """A body that is no picture upload."""

    status = 415
    code = "unsupported_media_type"


class InvalidImage(ServiceError):
    """Truncated, not a picture, zero-sized."""

    status = 422
    code = "invalid_image"


class InvalidPrompt(ServiceError):
    """A prompt that parses but makes no sense for its picture."""

    status = 422
    code = "invalid_prompt"


class ValidationFailed(ServiceError):
    """Fields that are missing, unknown, or of the wrong type or range."""

    status = 422
    code = "validation_error"


class RetryableError(ServiceError):
    """Try again after `retry_after_s` seconds: the Retry-After header."""

    def __init__(self, message: str, *, retry_after_s: int = 1, details: Sequence[Detail] = ()) -> None:
        super().__init__(message, details=details)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """When to try again, in seconds."""
        return {"Retry-After": str(self.retry_after_s)}


class RateLimited(RetryableError):
    """A client over its own share; others are served."""

    status = 429
    code = "rate_limited"


class InferenceFailed(ServiceError):
    """The model broke on this batch; the server goes on."""

    status = 500
    code = "inference_failed"


class Overloaded(RetryableError):
    """The queue is full, or too long for the deadline."""

    status = 503
    code = "overloaded"


class NotReady(RetryableError):
    """The model is still loading, or it failed to."""

    status = 503
    code = "not_ready"


class ShuttingDown(RetryableError):
    """The server is stopping; what waited is answered with this."""

    status = 503
    code = "shutting_down"

    def __init__(
        self,
        message: str = "The server is shutting down; ask again in a moment.",
        *,
        retry_after_s: int = 2,
        details: Sequence[Detail] = (),
    ) -> None:
        # The arguments of every ServiceError, for copy.copy calls it with them.
        super().__init__(message, retry_after_s=retry_after_s, details=details)


class DeadlineExceeded(ServiceError):
    """The request waited longer than SAM2_DEADLINE_S."""

    status = 504
    code = "deadline_exceeded"
