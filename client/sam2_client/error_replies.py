"""Error replies, and failures of the connection, become exceptions. Does not know when to retry."""

import email.utils
import time
from contextlib import suppress
from typing import Any

import httpx

from sam2_client.connection import proxy_hint
from sam2_client.errors import BY_CODE, ConnectionFailed, Detail, Sam2Error, TimedOut, UnexpectedReply

_SHOWN = 200
"""Characters of a body that is not the service's: the most that a message quotes."""


def error_of(response: httpx.Response) -> Sam2Error:
    """Return the exception for a reply that is not 2xx."""
    try:
        return _of_body(response.json(), response)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return UnexpectedReply(
            f"{asked(response)}: {response.status_code} {response.reason_phrase}{_rest(response)}",
            **_facts(response),
        )


def _rest(response: httpx.Response) -> str:
    """Return what a reply that is not the service's says beside its status: where it redirects to, or its body."""
    if response.has_redirect_location:
        # Not followed: most would lose the upload, and another host would get the key.
        place = response.headers["Location"]
        with suppress(httpx.InvalidURL):
            place = str(response.request.url.join(place).copy_with(userinfo=b""))
        return (
            f": it redirects to {place[:_SHOWN]}. This client does not follow redirects: if the service is there, "
            "give that server's address"
        )
    text = " ".join(response.text.split())
    return f": {text[:_SHOWN]}" if text else ""


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
    return ConnectionFailed(f"The connection to {server} failed: {why}.{_tls_hint(why)}{proxy_hint(url)}")


def _tls_hint(why: str) -> str:
    """Return what to do about a failure of TLS, or ""."""
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return " If the server's certificate is of an authority of your own, set SSL_CERT_FILE to that one's file."
    if "WRONG_VERSION_NUMBER" in why:
        return " What answers does not speak TLS: try http://."
    return ""


def asked(response: httpx.Response) -> str:
    """Return method and address of a reply's request, without a password that the address may have."""
    return f"{response.request.method} {response.request.url.copy_with(userinfo=b'')}"


def unexpected(response: httpx.Response, why: Exception) -> UnexpectedReply:
    """Return the exception for a 2xx reply that cannot be read."""
    return UnexpectedReply(
        f"{asked(response)}: this is not a reply of a SAM 2 service ({why!r})",
        status=response.status_code,
        request_id=response.headers.get("X-Request-ID"),
    )


def _of_body(value: Any, response: httpx.Response) -> Sam2Error:
    error = value["error"]
    code, message = str(error["code"]), str(error["message"])
    details = [
        Detail(where=str(each["where"]), what=str(each["what"])) for each in error.get("details") or ()
    ]
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
