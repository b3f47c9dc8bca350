"""Exceptions: one for each error code of the service, and the client's own.

Reads error replies. Does not know when to retry.
"""

import email.utils
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict

import httpx


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
    )
}
"""The service's errors, by the code in the reply's body."""

_SHOWN = 200
"""Characters of a body that is not the service's: the most that a message quotes."""


def error_of(response: httpx.Response) -> Sam2Error:
    """Return the exception for a reply that is not 2xx."""
    try:
        return _of_body(response.json(), response)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        text = " ".join(response.text.split())
        shown = f": {text[:_SHOWN]}" if text else ""
        where = f"{response.request.method} {response.request.url}"
        return UnexpectedReply(
            f"{where}: {response.status_code} {response.reason_phrase}{shown}", **_facts(response)
        )


def error_of_line(value: dict[str, Any], response: httpx.Response) -> Sam2Error:
    """Return the exception for an error in a line of a reply that began as 2xx, which stays its `status`."""
    try:
        return _of_body(value, response)
    except (LookupError, TypeError, AttributeError) as error:
        return unexpected(response, error)


def error_of_transport(error: httpx.RequestError) -> Sam2Error:
    """Return the exception for a request without a complete reply."""
    url = error.request.url
    server = f"{url.scheme}://{url.netloc.decode()}"
    why = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return TimedOut(f"{server} did not reply in time ({type(error).__name__}).")
    return ConnectionFailed(f"The connection to {server} failed: {why}.")


def unexpected(response: httpx.Response, why: Exception) -> UnexpectedReply:
    """Return the exception for a 2xx reply that cannot be read."""
    return UnexpectedReply(
        f"{response.request.method} {response.request.url}: this is not a reply of a SAM 2 service ({why!r})",
        status=response.status_code,
        request_id=response.headers.get("X-Request-ID"),
    )


def _of_body(value: Any, response: httpx.Response) -> Sam2Error:
    error = value["error"]
    code, message = str(error["code"]), str(error["message"])
    details = list(error.get("details") or ())
    return BY_CODE.get(code, Sam2Error)(message, code=code, details=details, **_facts(response))


def _facts(response: httpx.Response) -> dict[str, Any]:
    return {
        "status": response.status_code,
        "request_id": response.headers.get("X-Request-ID"),
        "retry_after_s": _retry_after_s(response.headers.get("Retry-After")),
    }


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
