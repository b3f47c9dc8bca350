"""Messages of /decode/stream that are refused, each under its tag."""

import json
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.app.middleware.test_keys import digest
from tests.app.routes.test_stream import CLICK, KEY, OTHER, closed, hear, listening, say
from tests.fakes import serving


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ('"image_id": ".."', "cannot be an id"),
        ('"image_id": "a", "image_id": "truck"', "image_id: it is given more than once"),
    ],
)
async def test_a_bad_id_or_a_field_that_is_given_twice_is_told_under_its_tag(fields: str, words: str) -> None:
    async with listening() as server, server.connect() as connection:
        await connection.send(f'{{"tag": 7, {fields}, "box": [1, 2, 30, 20]}}')
        answer = await hear(connection)
        assert (answer["tag"], answer["error"]["code"]) == (7, "validation_error")
        assert words in answer["error"]["message"]


@pytest.mark.parametrize("tag", [2**53, -(2**53), 1_764_425_648_123_456_789, 10**30, 10**400])
async def test_a_number_that_would_come_back_rounded_is_no_tag(tag: int) -> None:
    """The time in nanoseconds, say: its answer would be of another prompt, or of none."""
    async with listening() as server, server.connect() as connection:
        await connection.send(f'{{"tag": {tag}, "image_id": "a", "box": [1, 2, 30, 20]}}')
        answer = await hear(connection)
        assert (answer["tag"], answer["error"]["code"]) == (None, "validation_error")
        assert "send it as a string" in answer["error"]["message"]
        await connection.send('{"tag": 9007199254740991, "image_id": "a", "box": [1, 2, 30, 20]}')
        assert (await hear(connection))["tag"] == 2**53 - 1


async def test_a_key_that_is_taken_back_ends_its_connection_at_the_next_message(tmp_path: Path) -> None:
    """It was looked at when the connection opened: who had it went on clicking for as long as they liked."""
    path = tmp_path / "keys"
    path.write_text(f"anna:{digest(KEY)}\nbert:{digest(OTHER)}\n")
    async with (
        listening(KEY, api_keys=str(path)) as server,
        server.connect(additional_headers={"X-API-Key": KEY}) as by_header,
        server.connect() as by_message,
        server.connect(additional_headers={"X-API-Key": OTHER}) as other,
    ):
        await say(by_message, api_key=KEY)
        for connection in (by_header, by_message):
            await say(connection, tag=1, **CLICK)
            assert "predictions" in await hear(connection)
        path.write_text(f"bert:{digest(OTHER)}\n")
        server.app.state.keys.reload()
        for connection in (by_header, by_message):
            await say(connection, tag=2, **CLICK)
            assert await closed(connection) == 4401
        await say(other, tag=2, **CLICK)
        assert (await hear(other))["error"]["code"] == "image_not_found"


@pytest.mark.parametrize("tag", ["null", "true", "[1]", "NaN", "1e400", f'"{"x" * 129}"'])
async def test_what_cannot_be_a_tag_is_told_in_words(tag: str) -> None:
    async with listening() as server, server.connect() as connection:
        await connection.send(f'{{"tag": {tag}, "image_id": "truck", "box": [1, 2, 30, 20]}}')
        answer = await hear(connection)
    assert (answer["tag"], answer["error"]["code"]) == (None, "validation_error")
    said = "tag: Input should be a number, or a string of at most 128 characters"
    assert answer["error"]["message"].startswith(said)
    assert [detail["where"] for detail in answer["error"]["details"]] == ["tag"]


async def test_a_request_that_is_no_websocket_is_told_what_is_missing() -> None:
    """Proxies that do not pass an upgrade on make one of every connection."""
    async with serving() as served:
        reply = await served.client.get("/decode/stream")
        assert (reply.status_code, reply.json()["error"]["code"]) == (426, "upgrade_required")
        assert reply.headers["upgrade"] == "websocket"
        assert "A proxy in between has to pass on" in reply.json()["error"]["message"]


async def test_a_websocket_to_another_path_is_told_the_right_one() -> None:
    """It got 403 and no word, as if its key or its site were refused."""
    async with listening() as server:
        for path in ("/decode", "/decode/stream/", "/"):
            with pytest.raises(InvalidStatus) as refusal:
                await connect(f"ws://127.0.0.1:{server.port}{path}", proxy=None)
            reply = refusal.value.response
            assert reply.status_code == 404
            said = json.loads(reply.body or b"")["error"]
            assert said["code"] == "not_found"
            assert (
                said["message"]
                == f"There is no WebSocket at {path}. The one of this server is /decode/stream."
            )
