"""Errors as plain values, which travel between servers of different versions. Does not know how they travel."""

from collections.abc import Iterator
from typing import TypeAlias

from app import names_errors, track_errors  # noqa: F401  # so that their errors are among the kinds
from app.errors import Detail, RetryableError, ServiceError

PlainError: TypeAlias = tuple[int, str, str, list[Detail], int | None]
"""Status, code, message, details, and the seconds after which to try again."""


def _kinds(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)


_KINDS = {kind.code: kind for kind in _kinds(ServiceError) if "code" in vars(kind)}


def to_plain(error: ServiceError) -> PlainError:
    """Return an error's values."""
    retry_after_s = error.retry_after_s if isinstance(error, RetryableError) else None
    return error.status, error.code, error.message, error.details, retry_after_s


def from_plain(plain: PlainError) -> ServiceError:
    """Return the error that has these values. One with an unknown code, of a newer version, keeps its status."""
    status, code, message, details, retry_after_s = plain
    base = ServiceError if retry_after_s is None else RetryableError
    kind: type[ServiceError] = _KINDS.get(code) or type(
        "UnknownError", (base,), {"status": status, "code": code}
    )
    if retry_after_s is not None and issubclass(kind, RetryableError):
        return kind(message, retry_after_s=retry_after_s, details=details)
    return kind(message, details=details)
