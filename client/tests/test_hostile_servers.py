"""Whatever a server sends, a call ends in a Sam2Error, in bounded memory."""

import gzip
import io
import json
import zipfile
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from sam2_client import AsyncClient, Client, Sam2Error, bodies

PICTURE = b"\x89PNG\r\n\x1a\n"
EMBEDDED = {"image_id": "a", "width": 40, "height": 30, "model": "m", "cached": False}
DEEP = b"[" * 200_000 + b"]" * 200_000


def serving(*replies: httpx.Response) -> httpx.MockTransport:
    """Return a server that sends these replies, and repeats the last one."""
    left = list(replies)

    def answer(_: httpx.Request) -> httpx.Response:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if not reply.is_closed:  # a stream can be read only once
            return reply
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)

    return httpx.MockTransport(answer)


def masks(**changes: object) -> bytes:
    mask = {
        "rle": {"size": [30, 40], "counts": "l0"},
        "iou": 0.5,
        "stability": 0.5,
        "area": 0,
        "bbox": [0] * 4,
    }
    return json.dumps({**EMBEDDED, "predictions": [{"masks": [mask | changes]}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        DEEP,
        b'{"image_id": ' + DEEP + b"}",
        b"9" * 100_000,
        b"\xff\xfe\x00",
        json.dumps(EMBEDDED | {"width": 10**9, "height": 10**9}).encode(),
        json.dumps(EMBEDDED | {"width": 0}).encode(),
        json.dumps(EMBEDDED | {"width": -40}).encode(),
        json.dumps(EMBEDDED | {"width": 1e400}).encode(),
        json.dumps(EMBEDDED | {"width": None}).encode(),
        b'{"image_id": "a", "width": 1e999, "height": 3, "model": "m"}',
    ],
)
@pytest.mark.parametrize("status", [200, 404, 500])
def test_replies_that_are_none(body: bytes, status: int) -> None:
    with Client(transport=serving(httpx.Response(status, content=body)), retries=0) as client:
        for call in (lambda: client.embed(PICTURE), client.model, client.images, lambda: client.image("a")):
            with pytest.raises(Sam2Error):
                call()


@pytest.mark.parametrize(
    "reply",
    [
        masks(rle={"size": [10**9, 10**9], "counts": "l0"}),
        masks(rle={"size": [30, 40], "counts": "0" * 1000}),
        masks(rle={"size": [30, 40], "counts": [10**30]}),
        masks(rle={"size": [30, 40], "counts": [-5, 1205]}),
        masks(rle={"size": [30, 40], "counts": None}),
        masks(rle=None),
        masks(iou="high"),
        masks(bbox=None),
        masks(bounds=[0, 0, 10**9, 10**9]),
        json.dumps({**EMBEDDED, "predictions": []}).encode(),
        json.dumps({**EMBEDDED, "predictions": [{"masks": 5}]}).encode(),
    ],
)
def test_masks_that_are_none(reply: bytes) -> None:
    transport = serving(httpx.Response(200, json=EMBEDDED), httpx.Response(200, content=reply))
    with Client(transport=transport, retries=0) as client:
        image = client.embed(PICTURE)
        with pytest.raises(Sam2Error):
            image.decode(points=[(3, 4)])


def test_a_reply_that_unpacks_to_much_more_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    reply = httpx.Response(200, stream=httpx.ByteStream(bomb), headers={"Content-Encoding": "gzip"})
    with Client(transport=serving(reply), retries=0) as client, pytest.raises(Sam2Error, match="compressed"):
        client.model()


def test_a_reply_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_REPLY_BYTES", 2**20)
    sent: list[int] = []

    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for number in range(1_000_000):
                sent.append(number)
                yield bytes(65_536)

    reply = httpx.Response(200, stream=Endless())
    with (
        Client(transport=serving(reply), retries=0) as client,
        pytest.raises(Sam2Error, match="larger than 1 MiB"),
    ):
        client.model()
    assert len(sent) < 20


async def test_the_async_client_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_REPLY_BYTES", 1000)
    reply = httpx.Response(200, content=bytes(2000))
    async with AsyncClient(transport=serving(reply), retries=0) as client:
        with pytest.raises(Sam2Error, match="larger than"):
            await client.model()


def archive(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in files.items():
            written.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(shape: tuple[int, ...], data: bytes) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue() + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 and no more",
        archive(image_embed=b"no array"),
        archive(image_embed=npy((10**6, 10**6), b"short")),
        archive(image_embed=npy((2, 2), b"short")),
        archive(image_embed=npy((1,), bytes(3_000_000)) + bytes(3_000_000)),
    ],
    ids=["nothing", "cut", "no array", "a vast shape", "a short array", "much more than it says"],
)
def test_feature_maps_that_are_none(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam2_client.replies.MAX_REPLY_BYTES", 2**20)
    transport = serving(httpx.Response(200, json=EMBEDDED), httpx.Response(200, content=content))
    with Client(transport=transport, retries=0) as client:
        image = client.embed(PICTURE)
        with pytest.raises(Sam2Error):
            image.feature_maps()


@pytest.mark.parametrize(
    "header",
    ["9" * 5000, "-1", "nan", "inf", "Mon, 99 Jan 99999 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", ""],
)
def test_times_to_wait_that_are_none_end_at_once(header: str) -> None:
    reply = httpx.Response(
        503, headers={"Retry-After": header}, json={"error": {"code": "overloaded", "message": "m"}}
    )
    with Client(transport=serving(reply), retries=0) as client, pytest.raises(Sam2Error):
        client.model()


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, headers={"Content-Encoding": "unknown"}, content=b"{}"),
        httpx.Response(200, content=b"{}"),
        httpx.Response(401, content=b"Who are you?"),
        httpx.Response(302, headers={"Location": "/login"}),
    ],
)
def test_a_password_in_the_address_stays_out_of_messages(reply: httpx.Response) -> None:
    with (
        Client("http://anna:let%20me-in@here/sub", transport=serving(reply)) as client,
        pytest.raises(Sam2Error) as failed,
    ):
        client.embed(PICTURE)
    assert "POST http://here/sub/embed" in str(failed.value)
    assert not any(part in str(failed.value) for part in ("anna", "let", "me-in"))
