"""Errors that travel: what arrives has the status, the words and the headers of what was sent."""

import pickle

import pytest

from app import errors, names_errors, track_errors
from app.cluster.errors_as_values import from_plain, to_plain
from app.errors import Detail, RetryableError, ServiceError

KINDS = [
    kind
    for module in (errors, names_errors, track_errors)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, ServiceError) and "code" in vars(kind)
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_arrives_as_it_was_sent(kind: type[ServiceError]) -> None:
    details = [Detail(where="box", what="it is empty")]
    sent = (
        kind("Words.", retry_after_s=7, details=details)
        if issubclass(kind, RetryableError)
        else kind("Words.", details=details)
    )
    came = from_plain(pickle.loads(pickle.dumps(to_plain(sent))))  # noqa: S301
    if kind is not ServiceError:
        assert type(came) is kind
    assert (came.status, came.code, came.message) == (sent.status, sent.code, "Words.")
    assert came.details == details
    assert came.headers == sent.headers


@pytest.mark.parametrize("retry_after_s", [None, 3])
def test_an_error_of_a_newer_version_keeps_its_status_and_its_words(retry_after_s: int | None) -> None:
    came = from_plain((418, "teapot", "Short and stout.", [], retry_after_s))
    assert (came.status, came.code, came.message) == (418, "teapot", "Short and stout.")
    assert came.headers == ({} if retry_after_s is None else {"Retry-After": "3"})
