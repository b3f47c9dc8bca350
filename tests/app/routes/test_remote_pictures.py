"""Pictures by URL: redirects, limits, checks of the reply; /embed rejects them unless they are allowed."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from app.errors import (
    DeadlineExceeded,
    ImageTooLarge,
    InvalidImage,
    Overloaded,
    ServiceError,
    UnsupportedMediaType,
    ValidationFailed,
)
from app.routes.remote_pictures import MAX_REDIRECTS
from app.settings import Settings
from tests.app.routes.imagined_web import HOST, PUBLIC, URL, Web, redirect, reply, web
from tests.fakes import Served, error, picture, serving


async def test_a_picture_is_fetched_with_the_name_and_nothing_else(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text(f"machine {HOST} login anna password secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    arrived: list[int] = []
    async with web(authority) as here:
        here.replies["/a%20b.png?size=2"] = reply(b"a picture")
        assert await here.fetch(f"https://{HOST}/a b.png?size=2#here", arrived.append) == b"a picture"
        assert here.dialled == [(PUBLIC, 443)]
        (request,) = here.requests
        head = dict(line.lower().split(b": ", 1) for line in request.splitlines()[1:] if line)
        assert head == {
            b"host": HOST.encode(),
            b"accept": b"image/*",
            b"accept-encoding": b"identity",
            b"user-agent": b"sam2-service",
        }
    assert sum(arrived) == 9


async def test_the_next_address_is_tried_where_one_does_not_answer(authority: trustme.CA) -> None:
    async with web(authority) as here:
        here.names[HOST] = [["8.8.8.8", PUBLIC]]
        assert await here.fetch() == b"a picture"
        here.names[HOST] = [["8.8.8.8", "8.8.4.4"]]
        with pytest.raises(InvalidImage) as failure:
            await here.fetch()
        assert "8.8" not in failure.value.message


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
async def test_redirects_are_followed_and_looked_at_anew(status: str, authority: trustme.CA) -> None:
    async with web(authority) as here:
        here.names["cdn.example.org"] = [[PUBLIC]]
        here.replies |= {
            "/a": redirect("b/c", status),
            "/b/c": redirect("https://cdn.example.org/truck.png", status),
        }
        assert await here.fetch(f"https://{HOST}/a") == b"a picture"
        assert here.looked_up == [HOST, HOST, "cdn.example.org"]
        assert b"host: cdn.example.org" in here.requests[-1].lower()


async def test_redirects_have_an_end(authority: trustme.CA) -> None:
    async with web(authority) as here:
        here.replies |= {f"/{n}": redirect(f"/{n + 1}") for n in range(10)}
        here.replies[f"/{MAX_REDIRECTS}"] = reply(b"the last")
        assert await here.fetch(f"https://{HOST}/0") == b"the last"
        here.replies[f"/{MAX_REDIRECTS}"] = redirect("/truck.png")
        with pytest.raises(ValidationFailed, match=f"more than {MAX_REDIRECTS} times"):
            await here.fetch(f"https://{HOST}/0")


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (reply(status="404 Not Found"), InvalidImage),
        (reply(status="401 Unauthorized"), InvalidImage),
        (reply(status="206 Partial Content"), InvalidImage),
        (reply(b"half", content_length="10"), InvalidImage),
        (b"no HTTP at all\r\n\r\n", InvalidImage),
        (reply(b"<html>", content_type="text/html; charset=utf-8"), UnsupportedMediaType),
        (reply(b"x", content_encoding="gzip"), UnsupportedMediaType),
        (reply(content_length="10001"), ImageTooLarge),
        (reply(bytes(10_001), content_length=""), ImageTooLarge),
    ],
)
async def test_what_is_no_whole_picture_within_the_limit_is_refused(
    answer: bytes, failure: type[ServiceError], authority: trustme.CA
) -> None:
    async with web(authority) as here:
        here.replies["/truck.png"] = answer
        with pytest.raises(failure) as refusal:
            await here.fetch()
        assert PUBLIC not in refusal.value.message
        assert HOST not in refusal.value.message


@pytest.mark.parametrize("media_type", ["image/jpeg", "application/octet-stream", "binary/octet-stream", ""])
async def test_files_of_unknown_type_are_left_to_the_decoder(media_type: str, authority: trustme.CA) -> None:
    async with web(authority) as here:
        here.replies["/truck.png"] = reply(bytes(10_000), content_type=media_type)
        assert len(await here.fetch()) == 10_000


async def test_a_server_that_falls_silent_is_not_waited_for(authority: trustme.CA) -> None:
    async with web(authority, deadline_s=0.2) as here:
        here.replies["/silent"] = reply(b"half", content_length="10")
        with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
            await here.fetch(f"https://{HOST}/silent")


async def test_bytes_are_counted_as_they_come(authority: trustme.CA) -> None:
    def full(_: int) -> None:
        raise Overloaded("too many uploads")

    async with web(authority) as here:
        with pytest.raises(Overloaded):
            await here.fetch(arrived=full)


@asynccontextmanager
async def serving_the_web(authority: trustme.CA) -> AsyncIterator[tuple[Served, Web]]:
    """Run the service on the simulated internet."""
    async with (
        web(authority, max_bytes=2**20) as here,
        serving(Settings(allow_urls=True, workers=2)) as served,
    ):
        served.app.state.remote_pictures = here.pictures
        here.replies["/truck.png"] = reply(picture())
        yield served, here


async def test_embed_takes_a_url_where_a_picture_may_stand(authority: trustme.CA) -> None:
    async with serving_the_web(authority) as (served, here):
        first = await served.post("/embed", {"url": URL, "image_id": "truck"})
        assert first.status_code == 200
        assert (first.json()["image_id"], first.json()["cached"]) == ("truck", False)
        assert "fetch;dur=" in first.headers["server-timing"]
        assert (await served.click("truck")).status_code == 200
        assert (await served.embed(picture())).json()["cached"] is True  # the same bytes, by another way
        here.replies["/truck.png"] = reply(b"no picture")
        assert error(await served.post("/embed", {"url": URL})) == (422, "invalid_image")
        here.names[HOST] = [["10.0.0.1"]]
        assert error(await served.post("/embed", {"url": URL})) == (422, "validation_error")
        for body in ({"url": URL, "image": ""}, {}, {"url": 5}, {"url": "https://" + "a" * 9000}):
            assert error(await served.post("/embed", body)) == (422, "validation_error")
        assert served.app.state.body_budget.used_bytes == 0


async def test_nothing_is_fetched_unless_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was looked up")

    async with serving() as served:
        monkeypatch.setattr(socket, "getaddrinfo", never)
        response = await served.post("/embed", {"url": URL})
        assert error(response) == (422, "validation_error")
        assert "SAM2_ALLOW_URLS" in response.json()["error"]["message"]
