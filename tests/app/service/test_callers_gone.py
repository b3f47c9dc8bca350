"""Callers that leave early: their place is freed, and others that wait for the same work still get it."""

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

import pytest

from app.settings import Settings
from tests.app.requests_under_way import block, start
from tests.fakes import picture, serving, until

pytestmark = pytest.mark.usefixtures("either_service")


async def test_an_encoding_goes_on_for_those_who_joined_when_its_first_caller_leaves() -> None:
    async with serving() as served:
        served.segmenter.gate.clear()
        first, second = start(served.embed(picture()), served.embed(picture()))
        await until(lambda: sum(e.callers for e in served.service._encodings._running.values()) == 2)
        first.cancel()
        await until(lambda: sum(e.callers for e in served.service._encodings._running.values()) == 1)
        served.segmenter.gate.set()
        assert (await second).status_code == 200
        assert len(served.segmenter.encoded) == 1


async def test_a_failure_that_nobody_is_left_to_hear_is_no_complaint_of_asyncio() -> None:
    """The caller leaves at the moment the encoding fails. conftest.py checks for complaints of asyncio."""
    async with serving() as served:
        served.segmenter.gate.clear()
        served.segmenter.fail_next = RuntimeError("broken")
        (upload,) = start(served.embed(picture()))
        await served.segmenter.wait_until_entered()
        (encoding,) = served.service._encodings._running.values()
        encoding.task.add_done_callback(lambda _: upload.cancel())
        del encoding
        served.segmenter.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await upload
        assert (await served.embed(picture())).status_code == 200


async def test_an_encoding_that_nobody_waits_for_is_given_up() -> None:
    async with serving(Settings(max_waiting_images=2, workers=2)) as served:
        blocking = await block(served)
        uploads = start(served.embed(picture(shade=1)), served.embed(picture(shade=1)))
        await until(lambda: served.service._encoder.waiting == 1)
        for upload in uploads:
            upload.cancel()
        await until(lambda: served.service._encoder.waiting == 0)
        (again,) = start(served.embed(picture(shade=1)))
        await until(lambda: served.service._encoder.waiting == 1)
        served.segmenter.gate.set()
        assert (await again).json()["cached"] is False
        assert (await blocking).status_code == 200
        assert len(served.segmenter.encoded) == 2


@pytest.mark.parametrize("path", ["/embed", "/decode"])
async def test_a_client_that_disconnects_frees_its_place(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """The server reports a disconnect: `receive` yields http.disconnect."""
    caplog.set_level(logging.INFO)
    body = picture() if path == "/embed" else b'{"image_id": "blocked", "box": [1, 2, 3, 4]}'
    gone = asyncio.Event()
    # Uvicorn may yield an empty piece after the last one.
    messages = [{"type": "http.request", "body": piece, "more_body": False} for piece in (b"", body)]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"image/png")],
    }
    async with serving() as served:
        blocking = await block(served)
        request = asyncio.create_task(served.app(scope, receive, send))
        queue = served.service._encoder if path == "/embed" else served.service._decoder
        await until(lambda: queue.waiting == 1)
        gone.set()
        await until(lambda: queue.waiting == 0)
        await request
        assert sent[0]["status"] == 499
        assert f"POST {path} 499" in caplog.text
        served.segmenter.gate.set()
        assert (await blocking).status_code == 200
        assert len(served.segmenter.decoded) == 1
        assert (await served.embed(picture())).status_code == 200


async def test_a_client_that_leaves_in_the_middle_of_its_body_holds_nothing() -> None:
    messages = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0)

    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/embed", "query_string": b"", "headers": []}
    async with serving() as served:
        await served.app(scope, receive, send)
        assert sent[0]["status"] == 400
        assert served.app.state.body_budget.used_bytes == 0
