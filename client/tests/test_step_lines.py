"""Replies in lines from servers that are not trusted: each ends in masks or a Sam2Error, and is not repeated once
its first line has come.
"""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

import sam2_client
from sam2_client import AsyncClient, Client, Sam2Error, bodies, rle

EMBEDDED = {"image_id": "a", "width": 40, "height": 30, "model": "m", "cached": False}
MASK = {
    "rle": rle.encode(np.zeros((30, 40), bool)),
    "iou": 0.5,
    "stability": 0.5,
    "area": 0,
    "bbox": [0] * 4,
    "point": [1.5, 2],
    "crop": [0, 0, 40, 30],
}
STEP = b'{"progress": 0.5, "found": 1}\n'
RESULT = json.dumps({**EMBEDDED, "masks": [MASK]}).encode()
ERROR = b'{"error": {"code": "deadline_exceeded", "message": "Too slow."}}\n'
LINES = {"Content-Type": "application/x-ndjson; charset=utf-8", "X-Request-ID": "r1"}
BUSY = (503, {"Retry-After": "0"}, b'{"error": {"code": "overloaded", "message": "Full."}}')


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces; one that is an exception is raised."""

    def __init__(self, pieces: list[bytes | Exception]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


class Server:
    """Embeds, then sends the replies, and records what is asked."""

    def __init__(self, *replies: tuple[int, dict[str, str], Any]) -> None:
        self._replies = list(replies)
        self.asked: list[httpx.Request] = []
        self.transport = httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/embed":
            return httpx.Response(200, json=EMBEDDED)
        self.asked.append(request)
        status, headers, content = self._replies.pop(0)
        if isinstance(content, Exception):
            raise content
        stream = Pieces(content if isinstance(content, list) else [content])
        return httpx.Response(status, headers=headers, stream=stream)

    def everything(self, **options: Any) -> list[sam2_client.FoundMask]:
        with Client(transport=self.transport) as client:
            return client.embed(b"\x89PNG\r\n\x1a\n").everything(**options)


@pytest.mark.parametrize(
    "body",
    [
        [STEP, STEP, RESULT + b"\n"],
        [STEP + STEP + RESULT],
        [bytes([byte]) for byte in STEP + b"\r\n\n" + RESULT + b"\n\n"],
        [RESULT],
    ],
    ids=["a line each", "at once, without an end of line", "byte by byte, with empty lines", "no steps"],
)
def test_lines_come_in_any_pieces(body: list[bytes]) -> None:
    steps: list[tuple[float, int]] = []
    server = Server((200, LINES, body))
    (mask,) = server.everything(progress=lambda *step: steps.append(step))
    assert (mask.point, mask.crop_box) == ((1.5, 2.0), (0, 0, 40, 30))
    assert steps == [(0.5, 1)] * b"".join(body).count(b"progress")
    assert "application/x-ndjson" in server.asked[0].headers["Accept"]


def test_a_reply_without_lines_is_read_too() -> None:
    assert Server((200, {"Content-Type": "application/json"}, RESULT)).everything()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        STEP,
        STEP + STEP,
        STEP + RESULT[:-20],
        RESULT + b"\n" + STEP,
        RESULT + b"\n" + RESULT + b"\n",
        ERROR + RESULT,
        STEP + b"<html>a proxy</html>\n",
        STEP + b"null\n",
        STEP + b"[" * 3000 + b"\n",
        STEP + b'{"masks": ' + b"[" * 200_000 + b"\n",
        STEP + b"\xff\xfe\n",
        b'{"progress": 2, "found": 0}\n' + RESULT,
        b'{"progress": NaN, "found": 0}\n' + RESULT,
        b'{"progress": true, "found": 0}\n' + RESULT,
        b'{"progress": "half", "found": 0}\n' + RESULT,
        b'{"progress": 0.5, "found": -1}\n' + RESULT,
        b'{"progress": 0.5, "found": 1e400}\n' + RESULT,
        b'{"progress": 0.5}\n' + RESULT,
        b'{"error": null}\n',
        b'{"error": {"message": 5}}\n',
        json.dumps({**EMBEDDED, "width": 41, "masks": []}).encode(),
        json.dumps({**EMBEDDED, "masks": None}).encode(),
        json.dumps({**EMBEDDED, "masks": [{**MASK, "point": [1]}]}).encode(),
        json.dumps({**EMBEDDED, "masks": [{**MASK, "point": [1, float("nan")]}]}).encode(),
        json.dumps({**EMBEDDED, "masks": [{**MASK, "crop": None}]}).encode(),
        json.dumps({**EMBEDDED, "masks": [{**MASK, "rle": {"size": [30, 40], "counts": "0"}}]}).encode(),
    ],
)
def test_lines_that_are_none_end_in_an_error_and_are_asked_for_once(body: bytes) -> None:
    server = Server((200, LINES, body))
    with pytest.raises(sam2_client.UnexpectedReply) as caught:
        server.everything()
    assert caught.value.request_id == "r1"
    assert len(server.asked) == 1


def test_a_line_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_REPLY_BYTES", 2**20)
    with pytest.raises(Sam2Error, match="larger than 1 MiB"):
        Server((200, LINES, [bytes(65_536)] * 100)).everything()
    with pytest.raises(Sam2Error, match="larger than 1 MiB"):
        Server((200, LINES, [STEP * 1000] * 100)).everything()


def test_an_error_in_the_last_line_is_the_servers_own() -> None:
    server = Server((200, LINES, STEP + ERROR))
    with pytest.raises(sam2_client.DeadlineExceeded, match=r"Too slow\.") as caught:
        server.everything()
    assert (caught.value.code, caught.value.request_id) == ("deadline_exceeded", "r1")
    details = [{"where": "points", "what": "x" * 9000}]
    long = {"error": {"code": "new_code", "message": "m", "details": details}}
    with pytest.raises(Sam2Error) as caught:
        Server((200, LINES, STEP + json.dumps(long).encode())).everything()
    assert (caught.value.code, caught.value.details) == ("new_code", details)


def test_an_error_that_would_be_retried_is_not_after_the_first_line() -> None:
    busy = b'{"error": {"code": "overloaded", "message": "Full."}}\n'
    server = Server((200, {**LINES, "Retry-After": "0"}, STEP + busy))
    with pytest.raises(sam2_client.Overloaded):
        server.everything()
    assert len(server.asked) == 1


def test_before_the_first_line_a_request_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam2_client.retries.FIRST_WAIT_S", 0.001)
    cut = httpx.ReadError("cut")
    server = Server(BUSY, (200, LINES, cut), (200, LINES, [b"\n", cut]), (200, LINES, STEP + RESULT))
    steps: list[float] = []
    assert server.everything(progress=lambda fraction, found: steps.append(fraction))
    assert steps == [0.5]
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (httpx.ReadError("cut"), sam2_client.ConnectionFailed),
        (httpx.RemoteProtocolError("incomplete chunked read"), sam2_client.ConnectionFailed),
        (httpx.ReadTimeout("silence"), sam2_client.TimedOut),
    ],
)
async def test_after_it_a_broken_connection_ends_the_call(failure: Exception, error: type[Sam2Error]) -> None:
    server = Server((200, LINES, [STEP, failure]), (200, LINES, [STEP, RESULT[:9], failure]))
    with pytest.raises(error):
        server.everything()
    async with AsyncClient(transport=server.transport) as client:
        image = await client.embed(b"\x89PNG\r\n\x1a\n")
        with pytest.raises(error):
            await image.everything()
    assert len(server.asked) == 2
