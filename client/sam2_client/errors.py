"""Everything that can go wrong with a call: one exception for each code of the service, and the client's own.

Knows the form of error replies, but not when to retry.
"""

import email.utils
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict

import httpx


class Detail(TypedDict):
    """One thing that is wrong with a request: where it stands and what is wrong with it."""

    where: str
    what: str


class Sam2Error(Exception):
    """Any failure of a call. `str(error)` is the server's own message.

    Each code has its class. A code that this version does not know is a plain Sam2Error.
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
        """As in the service's table of errors."""
        self.status = status
        """The HTTP status; None where there was no reply."""
        self.details = list(details)
        """For a rejected request: each wrong field, and why."""
        self.request_id = request_id
        """As in the server's log."""
        self.retry_after_s = retry_after_s
        """Seconds that the server asks to wait, if it does."""


class BadRequest(Sam2Error):
    """The server could not read the request at all."""

    default_code = "bad_request"


class OriginRefused(Sam2Error):
    """A browser's page of another site called, and the server names no such site."""

    default_code = "origin_refused"


class Unauthorized(Sam2Error):
    """The server requires a key, and it is missing or wrong."""

    default_code = "unauthorized"


class ImageNotFound(Sam2Error):
    """No embedding with that id, and no picture at hand to embed again."""

    default_code = "image_not_found"


class ImageIdConflict(Sam2Error):
    """The id belongs to another picture."""

    default_code = "image_id_conflict"


class ImageTooLarge(Sam2Error):
    """More bytes or more pixels than the server accepts."""

    default_code = "image_too_large"


class UnsupportedMediaType(Sam2Error):
    """The body is not a picture upload."""

    default_code = "unsupported_media_type"


class HostNotAllowed(Sam2Error):
    """The server does not answer to the host name of this URL: its SAM2_ALLOWED_HOSTS."""

    default_code = "host_not_allowed"


class RequestHeadTooLarge(Sam2Error):
    """The head of the request is too large, because of a proxy's headers for example."""

    default_code = "request_head_too_large"


class InvalidImage(Sam2Error):
    """Truncated, not a picture, zero-sized."""

    default_code = "invalid_image"


class InvalidPrompt(Sam2Error):
    """The prompt does not fit its picture."""

    default_code = "invalid_prompt"


class ValidationFailed(Sam2Error):
    """Fields that are missing, unknown, or of the wrong type or range."""

    default_code = "validation_error"


class RateLimited(Sam2Error):
    """The client is over its limits, even after all retries."""

    default_code = "rate_limited"


class InferenceFailed(Sam2Error):
    """The model failed on this request; the server continues."""

    default_code = "inference_failed"


class InternalError(Sam2Error):
    """Internal error of the server; its log has the details under `request_id`."""

    default_code = "internal_error"


class Overloaded(Sam2Error):
    """The server's queue is full, even after all retries."""

    default_code = "overloaded"


class NotReady(Sam2Error):
    """The server's model is still loading, or it failed to."""

    default_code = "not_ready"


class ShuttingDown(Sam2Error):
    """The server is stopping."""

    default_code = "shutting_down"


class DeadlineExceeded(Sam2Error):
    """The server had no answer within its own deadline."""

    default_code = "deadline_exceeded"


class ConnectionFailed(Sam2Error):
    """No server could be reached, or it went away in the middle."""

    default_code = "connection_failed"


class TimedOut(Sam2Error):
    """No reply within this client's timeout."""

    default_code = "timed_out"


class UnexpectedReply(Sam2Error):
    """A reply that is not of this service: another server, or a proxy between."""

    default_code = "unexpected_reply"


class PictureChanged(Sam2Error):
    """The file has changed since it was embedded, so its masks would be those of another picture."""

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
    )
}
"""The errors of the service, by the code in their body."""

_SHOWN = 200
"""Characters of a body that is not the service's."""


def error_of(response: httpx.Response) -> Sam2Error:
    """The exception for a reply that is not 2xx."""
    facts: dict[str, Any] = {
        "status": response.status_code,
        "request_id": response.headers.get("X-Request-ID"),
        "retry_after_s": _retry_after_s(response.headers.get("Retry-After")),
    }
    try:
        error = response.json()["error"]
        code, message = str(error["code"]), str(error["message"])
        details = list(error.get("details") or ())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        text = " ".join(response.text.split())
        shown = f": {text[:_SHOWN]}" if text else ""
        where = f"{response.request.method} {response.request.url}"
        return UnexpectedReply(f"{where}: {response.status_code} {response.reason_phrase}{shown}", **facts)
    return BY_CODE.get(code, Sam2Error)(message, code=code, details=details, **facts)


def unexpected(response: httpx.Response, why: Exception) -> UnexpectedReply:
    """The exception for a 2xx reply that cannot be read."""
    return UnexpectedReply(
        f"{response.request.method} {response.request.url}: this is no reply of a SAM 2 service ({why!r})",
        status=response.status_code,
        request_id=response.headers.get("X-Request-ID"),
    )


def _retry_after_s(header: str | None) -> float | None:
    """Return the seconds until a Retry-After header, which is a number of seconds or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return None
