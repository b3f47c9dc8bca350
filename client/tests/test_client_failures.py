"""What Client does when something fails: it retries, or raises an exception with a clear message."""

import email.utils
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from client_server import Served, real_server

import sam2_client
from app import errors as service_errors
from app import track_errors
from app.settings import Settings
from sam2_client import Client
from sam2_client.errors import BY_CODE, Sam2Error
from sam2_client.retries import JITTER, LONGEST_WAIT_S, Retries
from tests.fakes import picture
from tests.server import free_port


def busy(retry_after: str = "0") -> tuple[int, dict[str, str], bytes]:
    body = b'{"error": {"code": "overloaded", "message": "The queue is full."}}'
    return 503, {"Retry-After": retry_after, "X-Request-ID": "r1"}, body


def test_a_busy_server_is_asked_again(client: Client, served: Served, truck: Path) -> None:
    limited = (429, {"Retry-After": "0"}, b'{"error": {"code": "rate_limited", "message": "Slowly."}}')
    of_a_proxy = (502, {"Content-Type": "text/html"}, b"<h1>Bad\n gateway</h1>")
    served.trouble.replies += [busy(), limited, of_a_proxy]
    client.embed(truck)
    assert served.trouble.asked == ["POST /embed"] * 4


def test_a_server_that_stays_busy_is_given_up(client: Client, served: Served, truck: Path) -> None:
    served.trouble.replies += [busy() for _ in range(5)]
    with pytest.raises(sam2_client.Overloaded) as caught:
        client.embed(truck)
    assert served.trouble.replies == []
    assert str(caught.value) == caught.value.message == "The queue is full."
    assert (caught.value.code, caught.value.status) == ("overloaded", 503)
    assert (caught.value.request_id, caught.value.retry_after_s) == ("r1", 0)


def test_nobody_waits_an_hour(client: Client, served: Served, truck: Path) -> None:
    served.trouble.replies.append(busy("3600"))
    with pytest.raises(sam2_client.Overloaded) as caught:
        client.embed(truck)
    assert caught.value.retry_after_s == 3600
    assert served.trouble.asked == ["POST /embed"]


def test_a_date_to_come_back_at_is_understood(client: Client, served: Served, truck: Path) -> None:
    in_an_hour = email.utils.formatdate(time.time() + 3600, usegmt=True)
    for asked, seconds in [(in_an_hour, 3600), ("soon", None)]:
        served.trouble.replies.append((504, {"Retry-After": asked}, b""))
        with pytest.raises(Sam2Error) as caught:
            client.embed(truck)
        assert caught.value.retry_after_s == (seconds and pytest.approx(seconds, abs=60))


def test_waits_are_what_the_server_asks_for_and_a_little_chance() -> None:
    retries = Retries(4)
    asked = [retries.wait_s(Sam2Error("", status=503, retry_after_s=2), tried=3) for _ in range(50)]
    assert all(wait is not None and 2 <= wait <= 2 * (1 + JITTER) for wait in asked)
    assert len(set(asked)) > 1
    unasked = [retries.wait_s(Sam2Error("", status=503), tried=tried) or 0 for tried in (1, 2, 3, 4)]
    assert unasked == sorted(unasked)
    assert unasked[0] < 1
    assert unasked[3] < LONGEST_WAIT_S
    assert retries.wait_s(Sam2Error("", status=503), tried=5) is None
    assert retries.wait_s(Sam2Error("", status=504), tried=1) is None


class Unreliable(httpx.BaseTransport):
    """Raises each of `failures` once, then sends requests."""

    def __init__(self, *failures: type[httpx.TransportError]) -> None:
        self.failures = list(failures)
        self.real = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.failures:
            raise self.failures.pop(0)("it broke", request=request)
        return self.real.handle_request(request)

    def close(self) -> None:
        self.real.close()


def test_a_broken_connection_is_made_again(served: Served, truck: Path) -> None:
    transport = Unreliable(httpx.ConnectError, httpx.ReadError)
    with Client(served.url, transport=transport) as client:
        assert client.embed(truck).width == 60
    assert transport.failures == []


def test_a_server_too_slow_is_not_asked_for_the_same_again(served: Served, truck: Path) -> None:
    transport = Unreliable(httpx.ReadTimeout, httpx.ReadTimeout)
    with Client(served.url, transport=transport) as client, pytest.raises(sam2_client.TimedOut):
        client.embed(truck)
    assert len(transport.failures) == 1


def test_no_server(truck: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url, retries=1) as client, pytest.raises(sam2_client.ConnectionFailed) as caught:
        client.embed(truck)
    assert url in str(caught.value)
    assert (caught.value.code, caught.value.status) == ("connection_failed", None)


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port", "host:73536", "host/?a=1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not the address of a server"):
        Client(url)


def test_the_scheme_may_be_left_out_and_a_path_stays(served: Served, truck: Path) -> None:
    with Client(served.url.removeprefix("http://") + "\r\n") as client:
        assert client.embed(truck).width == 60
    with Client(f"{served.url}/behind/a/proxy/") as client, pytest.raises(Sam2Error) as caught:
        client.embed(truck)
    assert "/behind/a/proxy/embed" in caught.value.message
    assert (caught.value.code, caught.value.status) == ("not_found", 404)


def test_the_key_is_sent(served: Served, truck: Path) -> None:
    with Client(served.url, "secret") as client:
        client.embed(truck)
    assert served.trouble.headers["authorization"] == "Bearer secret"
    assert served.trouble.headers["user-agent"].startswith("sam2-client/")


def test_every_error_of_the_service_has_its_exception() -> None:
    def below(error: type[service_errors.ServiceError]) -> Iterator[type[service_errors.ServiceError]]:
        for child in error.__subclasses__():
            yield child
            yield from below(child)

    elsewhere = {"not_offered", "not_found"}  # of doors, and where no WebSocket is
    codes = {error.code for error in below(service_errors.ServiceError)} - elsewhere
    assert track_errors.TrackBusy.code in codes
    assert codes <= BY_CODE.keys()
    assert {error.__name__ for error in BY_CODE.values()} <= set(sam2_client.__all__)


def test_refusals_come_with_the_servers_words(served: Served, client: Client, truck: Path) -> None:
    with pytest.raises(sam2_client.InvalidImage, match="HTML page") as caught:
        client.embed(b"<html></html>")
    assert caught.value.request_id
    with pytest.raises(sam2_client.ValidationFailed) as invalid:
        client.embed(truck, "a b")
    assert "image_id" in invalid.value.details[0]["where"]
    client.embed(truck, "taken")
    with pytest.raises(sam2_client.ImageIdConflict):
        client.embed(picture(61, 40), "taken")
    assert client.embed(picture(61, 40), "taken", replace=True).width == 61
    with pytest.raises(sam2_client.InvalidPrompt, match="it is empty"):
        client.embed(truck).decode()


def test_an_upload_that_is_too_large_is_refused_in_words() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (1000, 1000, 3), np.uint8)
    too_large = pytest.raises(sam2_client.ImageTooLarge, match="SAM2_MAX_UPLOAD_MIB")
    with (
        real_server(Settings(workers=2, max_upload_mib=1)) as served,
        Client(served.url) as client,
        too_large,
    ):
        client.embed(noise)


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (
            (504, {"Content-Type": "text/html"}, b"<h1>Too\n late</h1>"),
            "504 Gateway Timeout: <h1>Too late</h1>",
        ),
        ((200, {"Content-Type": "text/html"}, b"hello"), "not a reply of a SAM 2 service"),
        ((200, {"Content-Type": "application/json"}, b"[1]"), "not a reply of a SAM 2 service"),
        ((404, {}, b'{"error": "gone"}'), "404 Not Found"),
        (
            (308, {"Location": "https://u:pw@sam.example:444/v1"}, b"<h1>Moved</h1>"),
            "308 Permanent Redirect: it redirects to https://sam.example:444/v1. This client does not follow",
        ),
        ((302, {"Location": "/login"}, b""), "302 Found: it redirects to http://127.0.0.1:"),
    ],
)
def test_a_reply_of_something_else_is_said_to_be_that(
    client: Client, served: Served, truck: Path, reply: tuple[int, dict[str, str], bytes], what: str
) -> None:
    image = client.embed(truck)
    for ask in (lambda: client.embed(truck), lambda: image.decode(points=[(1, 1)])):
        served.trouble.replies.append(reply)
        with pytest.raises(sam2_client.UnexpectedReply) as caught:
            ask()
        assert what in caught.value.message
