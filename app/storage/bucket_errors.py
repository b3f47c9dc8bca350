"""What is wrong with a bucket, in words that say what to do.

Does not know who asked.
"""

import re

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as NoConnection,
)

_USER = re.compile(r"(?<=://)[^/\s@]*@")
_MISSING = {"NoSuchKey", "404", "NotFound"}
_REFUSED = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "TokenRefreshRequired",
}
_ELSEWHERE = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
}
_DENIED = {"AccessDenied", "AllAccessDisabled", "403", "Forbidden"}


class BucketError(OSError):
    """A request to a bucket failed. The message says why, without a name and a password of the endpoint's URL."""

    def __init__(self, message: str) -> None:
        super().__init__(_USER.sub("***@", message))


def is_missing(error: Exception) -> bool:
    """Whether there is no such object, which is no failure."""
    return isinstance(error, ClientError) and _code(error) in _MISSING


def is_outage(error: Exception) -> bool:
    """Whether the next request would most likely fail too, whatever it asks for."""
    if isinstance(error, ClientError):
        return _status(error) >= 500 or _code(error) in ("SlowDown", "TooManyRequests")
    return isinstance(error, NoConnection | HTTPClientError)


def words_of(error: Exception, *, bucket: str, endpoint: str, to: str = "use") -> str:
    """Return what an error of a request says to whoever runs the server. `to` is what was asked for."""
    if isinstance(error, ClientError):
        return _words_of_reply(error, bucket=bucket, endpoint=endpoint, to=to)
    if isinstance(error, NoCredentialsError):
        return (
            "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give "
            "the machine a role"
        )
    if isinstance(error, NoRegionError):
        return "there is no region; set AWS_DEFAULT_REGION"
    if isinstance(error, ReadTimeoutError):
        return f"{endpoint} does not answer in time"
    if isinstance(error, ConnectTimeoutError | NoConnection) and not isinstance(error, SSLError):
        return f"{endpoint} cannot be reached; AWS_ENDPOINT_URL and AWS_DEFAULT_REGION say where the store is"
    if isinstance(error, HTTPClientError | BotoCoreError):
        return f"the request to {endpoint} failed: {error}"
    return f"AWS's variables or files cannot be used: {error}"


def words_of_nonsense(error: Exception, *, endpoint: str) -> str:
    """Return what to say of a reply that boto3 fails at: a proxy's, for example, or a redirect to itself."""
    what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return f"{endpoint} does not answer as an S3-compatible store ({what}); is it one, and is there a proxy?"


def _words_of_reply(error: ClientError, *, bucket: str, endpoint: str, to: str) -> str:
    code = _code(error)
    if code == "NoSuchBucket" or (code in _MISSING and to in ("write", "list")):
        return f"there is no bucket {bucket!r} at {endpoint}; create it, or name another one"
    if code in _REFUSED:
        keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return f"{endpoint} does not accept the credentials ({code}); see {keys}"
    if code in _DENIED:
        return f"access denied: the credentials may not {to} objects of the bucket {bucket!r} at {endpoint}"
    if code in _ELSEWHERE:
        return f"the bucket {bucket!r} is in another region than asked for ({code}); set AWS_DEFAULT_REGION"
    if code == "RequestTimeTooSkewed":
        return f"{endpoint} has another time than this machine; set its clock"
    message = error.response.get("Error", {}).get("Message", "")
    return f"{endpoint} answers {_status(error)} {code}: {message}"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
