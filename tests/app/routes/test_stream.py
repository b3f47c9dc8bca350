"""/decode/stream with the real server and the client of websockets: tags, newest wins, keys, limits, closing."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.__main__ import Server, make_server
from app.listening import bind
from app.routes.streams import MAX_MESSAGE_BYTES
from app.settings import Settings
from tests.fakes import LONG_S, FakeSegmenter, make_app, picture, service_of, until
from tests.server import free_port

pytestmark = pytest.mark.usefixtures("either_service")

KEY = "anna-0123456789abcdef"
OTHER = "bert-0123456789abcdef"
CLICK = {"image_id": "truck", "point_coords": [[30, 20]], "point_labels": [1]}


@dataclass(frozen=True)
class Listening:
    """A running server on a real port."""

    server: Server
    app: Any
    segmenter: FakeSegmenter
    port: int

    def connect(self, **options: Any) -> Any:
        """Connect to the stream."""
        return connect(f"ws://127.0.0.1:{self.port}/decode/stream", proxy=None, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        """Send an HTTP request to the same server."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False) as client:
            return await client.post(path, **options)


@asynccontextmanager
async def listening(key: str = "", **settings: Any) -> AsyncIterator[Listening]:
    """Run a server with one picture embedded."""
    wanted = Settings(**{"workers": 2, "port": free_port()} | settings)
    segmenter = FakeSegmenter()
    app = make_app(wanted, segmenter)
    server = make_server(app, wanted)
    serving = asyncio.create_task(server._serve(bind("127.0.0.1", wanted.port)))
    try:
        await until(lambda: server.started and app.state.service.is_loaded)
        listening = Listening(server, app, segmenter, wanted.port)
        headers = {"X-API-Key": key} if key else {}
        files = {"image": picture(60, 40)}
        embedded = await listening.post("/embed", files=files, data={"image_id": "truck"}, headers=headers)
        assert embedded.status_code == 200, embedded.text
        await segmenter.wait_until_entered()
        yield listening
    finally:
        segmenter.gate.set()
        server.should_exit = True
        await asyncio.wait_for(serving, LONG_S)


async def say(connection: ClientConnection, **message: Any) -> None:
    """Send a message."""
    await connection.send(json.dumps(message))


async def hear(connection: ClientConnection) -> dict[str, Any]:
    """Return the next answer."""
    answer: dict[str, Any] = json.loads(await asyncio.wait_for(connection.recv(), LONG_S))
    return answer


async def closed(connection: ClientConnection) -> int:
    """Wait for the server to close the connection, and return its code."""
    with pytest.raises(ConnectionClosed) as error:
        await asyncio.wait_for(connection.recv(), LONG_S)
    assert error.value.rcvd is not None
    return error.value.rcvd.code


async def test_an_answer_is_that_of_decode_with_the_tag_of_its_prompt() -> None:
    async with listening() as server, server.connect() as connection:
        for tag in ("a", 7, 1.5):
            await say(connection, tag=tag, **CLICK, mask_format="polygons", simplify=1)
            answer = await hear(connection)
            assert answer.pop("tag") == tag
            wanted = await server.post("/decode", json=CLICK | {"mask_format": "polygons", "simplify": 1})
            assert answer == wanted.json()
        figures = server.app.state.service.metrics.render().decode()
        assert 'sam2_requests_total{method="WEBSOCKET",route="/decode/stream",status="200"} 3.0' in figures


async def test_the_messages_are_described_and_their_example_works() -> None:
    async with listening() as server, server.connect() as connection:
        schemas = server.app.openapi()["components"]["schemas"]
        assert {"StreamPrompt", "SkippedReply", "StreamErrorReply"} <= set(schemas)
        (example,) = schemas["StreamPrompt"]["examples"]
        large = {"image": picture(900, 600)}
        await server.post("/embed", files=large, data={"image_id": example["image_id"]})
        await say(connection, **example)
        assert "predictions" in await hear(connection)


async def test_the_newest_prompt_wins_and_those_it_replaces_are_told() -> None:
    async with listening() as server, server.connect() as connection:
        server.segmenter.gate.clear()
        await say(connection, tag=0, **CLICK)
        await server.segmenter.wait_until_entered()
        for tag in (1, 2, 3):
            await say(connection, tag=tag, **CLICK)
        assert [await hear(connection) for _ in range(2)] == [
            {"tag": 1, "skipped": True},
            {"tag": 2, "skipped": True},
        ]
        server.segmenter.gate.set()
        assert [(await hear(connection))["tag"] for _ in range(2)] == [0, 3]
        assert len(server.segmenter.decoded) == 2
        assert server.app.state.body_budget.used_bytes == 0


@pytest.mark.parametrize(
    ("message", "tag", "code"),
    [
        ("{", None, "bad_request"),
        (b"\xff", None, "bad_request"),
        (json.dumps(CLICK), None, "validation_error"),
        (json.dumps({"tag": True, **CLICK}), None, "validation_error"),
        (json.dumps({"tag": "x" * 129, **CLICK}), None, "validation_error"),
        (json.dumps({"tag": 1, **CLICK, "prompts": []}), 1, "validation_error"),
        (json.dumps({"tag": 1, **CLICK, "max_hole_area": -1}), 1, "validation_error"),
        (json.dumps({"tag": 1, "image_id": "truck"}), 1, "invalid_prompt"),
        (json.dumps({"tag": "t", **CLICK, "image_id": "car"}), "t", "image_not_found"),
        (json.dumps({"tag": 2, **CLICK, "mask_input": "A" * 100_000}), 2, "invalid_prompt"),
        (json.dumps({"tag": 2, "pad": "A" * 100_000}), 2, "validation_error"),
    ],
)
async def test_an_error_is_an_answer_and_the_connection_goes_on(
    message: str | bytes, tag: object, code: str
) -> None:
    async with listening() as server, server.connect() as connection:
        await connection.send(message)
        answer = await hear(connection)
        assert (answer["tag"], answer["error"]["code"]) == (tag, code)
        assert answer["error"]["message"]
        await say(connection, tag="next", **CLICK)
        assert "predictions" in await hear(connection)


async def test_a_model_that_breaks_and_a_fault_of_ours_are_answers_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening() as server, server.connect() as connection:
        server.segmenter.fail_next = RuntimeError("broken")
        await say(connection, tag=1, **CLICK)
        assert (await hear(connection))["error"]["code"] == "inference_failed"
        monkeypatch.setattr(service_of(server.app), "store", None)
        await say(connection, tag=2, **CLICK)
        answer = await hear(connection)
        assert (answer["tag"], answer["error"]["code"]) == (2, "internal_error")
        monkeypatch.undo()
    assert "Internal error" in caplog.text


async def test_a_key_comes_by_header_or_in_the_first_message() -> None:
    async with listening(KEY, api_keys=f"anna:{KEY}, bert:{OTHER}") as server:
        async with server.connect(additional_headers={"Authorization": f"Bearer {KEY}"}) as connection:
            await say(connection, tag=1, **CLICK)
            assert "predictions" in await hear(connection)
        for login_of_a_proxy in ({}, {"Authorization": "Basic dXNlcjpwYXNzd29yZA=="}):
            async with server.connect(additional_headers=login_of_a_proxy) as connection:
                await say(connection, api_key=KEY)
                await say(connection, tag=1, **CLICK)
                assert "predictions" in await hear(connection)
        async with server.connect() as connection:  # another tenant
            await say(connection, api_key=OTHER)
            await say(connection, tag=1, **CLICK)
            assert (await hear(connection))["error"]["code"] == "image_not_found"


async def test_without_a_valid_key_the_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(KEY, api_keys=f"anna:{KEY}") as server:
        for header in ({"X-API-Key": "no key of ours"}, {}):
            async with server.connect(additional_headers=header) as connection:
                await say(connection, **({"tag": 1} | CLICK))
                assert await closed(connection) == 4401
        async with server.connect() as connection:
            await say(connection, api_key="no key of ours")
            assert await closed(connection) == 4401
        async with server.connect() as connection:
            await connection.send(f'{{"api_key": "another", "api_key": "{KEY}"}}')
            assert await closed(connection) == 4401
        monkeypatch.setattr("app.routes.stream_prompts._KEY_WAIT_S", 0.05)
        async with server.connect() as connection:
            assert await closed(connection) == 4401
        assert server.segmenter.decoded == []


async def test_a_server_without_keys_takes_a_client_that_sends_one() -> None:
    async with listening() as server, server.connect() as connection:
        await say(connection, api_key=KEY)
        await say(connection, tag=1, **CLICK)
        assert "predictions" in await hear(connection)


@pytest.mark.parametrize(
    ("origins", "origin", "welcome"),
    [
        ("", "http://127.0.0.1:{port}", True),
        ("", "https://evil.example", False),
        ("", "null", False),
        ("", "http://[", False),  # a traceback and 500
        ("", "http://127.0.0.1:{port}]", False),
        ("https://tool.example", "https://tool.example", True),
        ("https://tool.example", "https://tool.example.evil.example", False),
        ("*", "https://any.example", True),
    ],
)
async def test_pages_of_other_sites_may_connect_only_where_cors_says_so(
    origins: str, origin: str, welcome: bool
) -> None:
    async with listening(cors_origins=origins) as server:
        opening = server.connect(additional_headers={"Origin": origin.format(port=server.port)})
        if welcome:
            async with opening as connection:
                await say(connection, tag=1, **CLICK)
                assert "predictions" in await hear(connection)
            return
        with pytest.raises(InvalidStatus) as refusal:
            await opening
        assert refusal.value.response.status_code == 403
        assert json.loads(refusal.value.response.body)["error"]["code"] == "origin_refused"


async def test_prompts_count_for_the_requests_in_flight_of_their_client() -> None:
    limited = listening(rate_requests_in_flight=1)
    async with limited as server, server.connect() as first, server.connect() as second:
        server.segmenter.gate.clear()
        await say(first, tag=1, **CLICK)
        await server.segmenter.wait_until_entered()
        await say(second, tag=2, **CLICK)
        answer = await hear(second)
        assert (answer["tag"], answer["error"]["code"]) == (2, "rate_limited")
        assert answer["retry_after_s"] == 1
        server.segmenter.gate.set()
        assert (await hear(first))["tag"] == 1


async def test_a_prompt_that_takes_too_long_is_answered_with_that() -> None:
    async with listening(deadline_s=0.5) as server, server.connect() as connection:
        server.segmenter.gate.clear()
        await say(connection, tag=1, **CLICK)
        assert (await hear(connection))["error"]["code"] == "deadline_exceeded"


async def test_messages_are_bounded_alone_and_together() -> None:
    async with listening(max_bodies_mib=1, max_upload_mib=1) as server:
        async with server.connect() as connection:
            with suppress(ConnectionClosed):  # the server closes while the message is sent
                await say(connection, tag=1, **CLICK, mask_input="A" * (2 * 2**20))
            assert await closed(connection) == 1013
        async with server.connect(max_size=None) as connection:
            with suppress(ConnectionClosed):  # the server may close while the message is sent
                await connection.send(" " * (MAX_MESSAGE_BYTES + 1))
            assert await closed(connection) == 1009


async def test_an_idle_connection_is_closed() -> None:
    async with listening(stream_idle_s=0.2) as server, server.connect() as connection:
        assert await closed(connection) == 4408


async def test_connections_of_one_address_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.routes.streams._MOST_OF_ONE_ADDRESS", 1)
    async with listening() as server, server.connect():
        with pytest.raises(InvalidStatus) as refusal:
            await server.connect()
        assert refusal.value.response.status_code == 503
        assert json.loads(refusal.value.response.body)["error"]["code"] == "overloaded"


async def test_a_stop_answers_what_runs_and_closes_with_going_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with listening() as server, server.connect() as idle, server.connect() as busy:
        server.segmenter.gate.clear()
        await say(busy, tag=1, **CLICK)
        await server.segmenter.wait_until_entered()
        await say(busy, tag=2, **CLICK)
        await until(lambda: server.app.state.body_budget.used_bytes > 150)
        server.server.should_exit = True
        assert await closed(idle) == 1001
        server.segmenter.gate.set()
        assert "predictions" in await hear(busy)
        answer = await hear(busy)
        assert (answer["tag"], answer["error"]["code"]) == (2, "shutting_down")
        assert await closed(busy) == 1001
    assert "WEBSOCKET /decode/stream 2 prompts" in caplog.text


async def test_what_waits_is_forgotten_with_its_client() -> None:
    async with listening() as server:
        async with server.connect() as connection:
            server.segmenter.gate.clear()
            await say(connection, tag=1, **CLICK)
            await server.segmenter.wait_until_entered()
            await say(connection, tag=2, **CLICK)
            await until(lambda: server.app.state.body_budget.used_bytes > 150)
        await until(lambda: server.app.state.body_budget.used_bytes == 0)
        server.segmenter.gate.set()
        assert (await server.post("/decode", json=CLICK)).status_code == 200
        assert len(server.segmenter.decoded) == 2
