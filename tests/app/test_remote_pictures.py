"""Pictures by URL: fetched from where they may be, and no request ever goes anywhere else.

Hosts are imagined: `resolve` gives them public addresses, and `dial` leads these to servers here, with certificates
of an authority made here.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpcore
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
from app.remote_pictures import MAX_REDIRECTS, RemotePictures, is_public, resolve
from app.settings import Settings
from tests.fakes import Served, error, picture, serving

PUBLIC = "93.184.215.14"
HOST = "pictures.example"
URL = f"https://{HOST}/truck.png"


@dataclass
class Web:
    """A server with TLS, what was asked of it, and a RemotePictures that takes it for the internet."""

    pictures: RemotePictures
    names: dict[str, list[list[str]]]
    """Addresses by host, one list for each time it is looked up; the last one stays."""
    replies: dict[str, bytes]
    """By path: a whole reply, head and body."""
    requests: list[bytes] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)

    async def fetch(self, url: str = URL, arrived: Callable[[int], None] = lambda _: None) -> bytes:
        """What RemotePictures makes of a URL."""
        return await self.pictures.fetch(url, arrived=arrived)


def reply(body: bytes = b"", *, status: str = "200 OK", **headers: str) -> bytes:
    """A reply of HTTP; by default it says its length and that it is a picture."""
    head = {"content-type": "image/png", "content-length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items() if value)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    """A reply that leads elsewhere."""
    return reply(status=status, location=location)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@asynccontextmanager
async def web(
    authority: trustme.CA, *, certificate_of: str = HOST, max_bytes: int = 10_000, deadline_s: float = 20.0
) -> AsyncIterator[Web]:
    """The internet, as far as it is needed."""
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(certificate_of, "*.example.org").configure_cert(server_tls)
    client_tls = ssl.create_default_context()
    authority.configure_trust(client_tls)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        here.requests.append(request)
        path = request.split(b" ")[1].decode()
        writer.write(here.replies.get(path, reply(status="404 Not Found")))
        if path != "/silent":
            writer.close()

    async def look_up(host: str) -> list[str]:
        here.looked_up.append(host)
        known = here.names.get(host, [[]])
        return known.pop(0) if len(known) > 1 else known[0]

    class Dial(httpcore.AsyncNetworkBackend):
        def __init__(self) -> None:
            self._real = httpcore.AnyIOBackend()

        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore.AsyncNetworkStream:
            here.dialled.append((host, port))
            if host != PUBLIC:
                raise httpcore.ConnectError("nobody there")
            return await self._real.connect_tcp("127.0.0.1", listening)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls)
    listening = server.sockets[0].getsockname()[1]
    pictures = RemotePictures(
        allowed=True,
        max_bytes=max_bytes,
        deadline_s=deadline_s,
        resolve=look_up,
        dial=Dial(),
        tls=client_tls,
    )
    here = Web(pictures, {HOST: [[PUBLIC]]}, {"/truck.png": reply(b"a picture")})
    try:
        yield here
    finally:
        server.close()


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


@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/truck.png",
        f"ftp://{HOST}/truck.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        f"//{HOST}/truck.png",
        "truck.png",
        "",
        "https://",
        "https:///truck.png",
        f"https://{HOST}:80/",
        f"https://{HOST}:8443/",
        f"https://{HOST}:99999/",
        f"https://anna@{HOST}/",
        f"https://anna:secret@{HOST}/",
        f"https://{HOST}/\r\nX-Other: 1",
        "https://[::1/",
    ],
)
async def test_what_is_not_plain_https_is_refused_before_anything_is_looked_up(
    url: str, authority: trustme.CA
) -> None:
    async with web(authority) as here:
        with pytest.raises(ValidationFailed) as refusal:
            await here.fetch(url)
        assert refusal.value.details[0]["where"] == "url"
        assert "secret" not in refusal.value.message
        assert here.looked_up == here.dialled == []


NOT_PUBLIC = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),  # noqa: S104
    *(
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
    ),
    *(
        "203.0.113.1",
        "192.88.99.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
    ),
    *(
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:93.184.215.14",
        "fe80::1",
        "fe80::1%lo",
    ),
    *(
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "64:ff9b::7f00:1",
        "64:ff9b::5db8:d70e",
        "64:ff9b:1::1",
    ),
    *("2001::1", "2001:db8::1", "2001:10::1", "2002:7f00:1::1", "3fff::1", "100::1", "5f00::1", "4000::1"),
    *("", "localhost", "127.1", "0x7f000001", "2130706433"),
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_addresses_that_are_not_public_are_never_dialled(address: str, authority: trustme.CA) -> None:
    assert not is_public(address)
    async with web(authority) as here:
        for addresses in ([address], [PUBLIC, address], [address, PUBLIC]):
            here.names[HOST] = [addresses]
            with pytest.raises(ValidationFailed) as refusal:
                await here.fetch()
            assert not address or address not in refusal.value.message
        assert here.dialled == []


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1", "2a00:1450::1"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:7f00:1]"]
)
async def test_every_way_to_write_this_machine_is_seen_through_by_the_systems_own_lookup(
    host: str, authority: trustme.CA
) -> None:
    async with web(authority) as here:
        here.pictures._network._resolve = resolve
        with pytest.raises(ValidationFailed):
            await here.fetch(f"https://{host}/")
        assert here.dialled == []


async def test_no_such_host_and_a_host_inside_are_answered_alike(authority: trustme.CA) -> None:
    """Or who asks could tell which names there are inside."""
    async with web(authority) as here:
        here.names["inside.example"] = [["10.0.0.7"]]
        said = []
        for host in ("inside.example", "nowhere.example"):
            with pytest.raises(ValidationFailed) as refusal:
                await here.fetch(f"https://{host}/")
            said.append((refusal.value.message, refusal.value.details))
        assert said[0] == said[1]
        assert "10.0.0.7" not in str(said)


async def test_a_name_that_cannot_be_looked_up_has_no_address() -> None:
    assert await resolve("a" * 64 + ".example") == []
    assert await resolve("host.invalid") == []


async def test_a_name_that_leads_elsewhere_a_moment_later_gains_nothing(authority: trustme.CA) -> None:
    """Looked up once for a connection, and that address is dialled; a second connection is looked at anew."""
    async with web(authority) as here:
        here.names[HOST] = [[PUBLIC], ["127.0.0.1"]]
        assert await here.fetch() == b"a picture"
        assert here.looked_up == [HOST]
        assert here.dialled == [(PUBLIC, 443)]
        with pytest.raises(ValidationFailed):
            await here.fetch()
        here.names[HOST] = [[PUBLIC], ["127.0.0.1"]]
        here.replies["/around"] = redirect("/truck.png")
        with pytest.raises(ValidationFailed):
            await here.fetch(f"https://{HOST}/around")
        assert here.dialled == [(PUBLIC, 443)] * 2


async def test_the_next_address_is_tried_where_one_does_not_answer(authority: trustme.CA) -> None:
    async with web(authority) as here:
        here.names[HOST] = [["8.8.8.8", PUBLIC]]
        assert await here.fetch() == b"a picture"
        here.names[HOST] = [["8.8.8.8", "8.8.4.4"]]
        with pytest.raises(InvalidImage) as failure:
            await here.fetch()
        assert "8.8" not in failure.value.message


async def test_a_certificate_of_another_name_or_authority_is_refused(authority: trustme.CA) -> None:
    async with web(authority, certificate_of="other.example") as here:
        with pytest.raises(InvalidImage, match="certificate"):
            await here.fetch()
        assert here.requests == []
    async with web(authority) as here:
        here.pictures._tls = ssl.create_default_context()
        with pytest.raises(InvalidImage, match="certificate"):
            await here.fetch()
        assert here.requests == []


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


@pytest.mark.parametrize(
    "location",
    [
        f"http://{HOST}/truck.png",
        "https://inside.example/",
        f"https://{HOST}:8443/",
        f"https://a:b@{HOST}/",
        "",
    ],
)
async def test_a_redirect_to_where_nothing_is_fetched_from_is_refused(
    location: str, authority: trustme.CA
) -> None:
    async with web(authority) as here:
        here.names["inside.example"] = [["169.254.169.254"]]
        here.replies["/a"] = redirect(location)
        with pytest.raises(ValidationFailed):
            await here.fetch(f"https://{HOST}/a")
        assert here.dialled == [(PUBLIC, 443)]


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
    """The service, with this internet."""
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
        assert (await served.embed(picture())).json()["cached"] is True  # one content, however it comes
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
