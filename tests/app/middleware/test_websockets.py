"""WebSockets before and after their handshake: refused upgrades are answered, and nothing is large before a key."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed

from app.middleware import rates
from app.middleware.rates import LoopTime
from app.middleware.websockets import FIRST_MESSAGE_BYTES
from tests.app.middleware.test_request_heads import refusal, replies_to
from tests.app.routes.test_stream import CLICK, closed, hear, listening, say
from tests.fakes import LONG_S, until

UPGRADE = (
    b"GET /decode/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
KEY = "anna-0123456789abcdef"


@pytest.mark.parametrize(
    ("method", "rest", "error"),
    [
        (b"GET", b"Content-Length: 5\r\n\r\n", (400, "bad_request")),
        (b"GET", b"Transfer-Encoding: chunked\r\n\r\n", (400, "bad_request")),
        (b"GET", b"a: " + b"b" * 20_000 + b"\r\n\r\n", (400, "bad_request")),
        (b"GET", b"Sec-WebSocket-Version: 12\r\n\r\n", (400, "bad_request")),
        (b"POST", b"\r\n", (405, "method_not_allowed")),
    ],
    ids=["a length", "chunks", "a long header", "two versions", "POST"],
)
async def test_an_upgrade_that_is_refused_is_answered_and_closed(
    method: bytes, rest: bytes, error: tuple[int, str]
) -> None:
    async with listening() as server:
        reply = await replies_to(server.port, method + UPGRADE.removeprefix(b"GET") + rest)
        assert refusal(reply) == error
        head, _, body = reply.partition(b"\r\n\r\n")
        assert b"content-type: application/json" in head.lower()
        assert f"content-length: {len(body)}".encode() in head.lower()


async def test_connection_may_have_several_lines() -> None:
    async with listening() as server:
        for more in (b"Connection: keep-alive\r\n", b"Connection: close\r\nconnection: x\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(UPGRADE + more + b"\r\n")
            assert b" 101 " in await reader.readline()
            writer.close()


async def test_an_upgrade_with_too_many_headers_is_refused() -> None:
    many = b"".join(b"a%d: b\r\n" % i for i in range(200))
    async with listening() as server:
        assert refusal(await replies_to(server.port, UPGRADE + many + b"\r\n")) == (
            431,
            "request_head_too_large",
        )


async def test_what_clients_do_wrong_is_no_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    not_utf8 = b"\x81\x82\0\0\0\0\xff\xff"
    async with listening() as server:
        foreign = await replies_to(server.port, UPGRADE + b"Origin: http://other.example\r\n\r\n")
        assert refusal(foreign) == (403, "origin_refused")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(UPGRADE + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(not_utf8)
        assert await asyncio.wait_for(reader.read(), LONG_S) == b"\x88\x02\x03\xef"  # 1007
        writer.close()
        async with server.connect() as connection:
            await connection.send('{"tag": "\N{SNOWMAN}"}')
            assert (await hear(connection))["tag"] == "\N{SNOWMAN}"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_before_a_key_messages_are_small() -> None:
    async with listening(KEY, api_keys=f"anna:{KEY}") as server, server.connect(max_size=None) as connection:
        with suppress(ConnectionClosed):
            await connection.send('{"a": "' + "b" * FIRST_MESSAGE_BYTES + '"}')
        assert await closed(connection) == 1009


async def test_with_a_key_they_are_not() -> None:
    async with listening(KEY, api_keys=f"anna:{KEY}") as server:
        async with server.connect() as connection:
            await connection.send(json.dumps({"api_key": KEY}))
            await say(connection, tag=1, **CLICK, mask_input="A" * (10 * FIRST_MESSAGE_BYTES))
            assert (await hear(connection))["tag"] == 1
        async with server.connect(additional_headers={"X-API-Key": KEY}) as connection:
            await say(connection, tag=2, **CLICK, mask_input="A" * (10 * FIRST_MESSAGE_BYTES))
            assert (await hear(connection))["tag"] == 2


async def test_a_message_counts_among_the_bodies_while_it_arrives() -> None:
    end = asyncio.Event()

    async def begun(size: int) -> AsyncIterator[str]:
        yield '{"a": "' + "b" * size
        await end.wait()
        yield '"}'

    async with listening(max_upload_mib=1, max_bodies_mib=1) as server:
        budget = server.app.state.body_budget
        async with server.connect() as first, server.connect() as second:
            sending = asyncio.create_task(first.send(begun(800_000)))
            await until(lambda: budget.used_bytes > 790_000)
            await say(second, tag=1, **CLICK)  # a small one has room
            assert (await hear(second))["tag"] == 1
            refused = asyncio.create_task(second.send(begun(400_000)))
            assert await closed(second) == 1013
            end.set()
            await asyncio.gather(sending, refused, return_exceptions=True)
            assert (await hear(first))["error"]["code"] == "validation_error"
        await until(lambda: budget.used_bytes == 0)


async def test_messages_are_not_compressed() -> None:
    async with listening() as server, server.connect() as connection:
        assert connection.protocol.extensions == []


async def test_what_comes_with_the_upgrade_is_parsed_a_piece_at_a_time() -> None:
    """Thousands of messages in one packet: each is answered or skipped, none is lost."""
    async with listening() as server, server.connect() as connection:
        texts = [json.dumps({"tag": i, **CLICK}) for i in range(500)]
        for text in texts:
            await connection.send(text)
        tags = {(await hear(connection))["tag"] for _ in texts}
        assert tags == set(range(500))


async def test_messages_wait_for_the_time_that_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(rates, "_MESSAGE_S", 0.0)
    monkeypatch.setattr(rates, "monotonic", lambda: 100.0)
    monkeypatch.setattr("asyncio.sleep", sleep)
    loop_time = LoopTime()
    await loop_time.wait("anna")
    for _ in range(3):
        loop_time.note("anna", 0.01)
    await loop_time.wait("bert")
    assert slept == []
    await loop_time.wait("anna")
    assert slept == [pytest.approx(3 * 3 * 0.01)]


async def test_one_message_waits_for_nothing() -> None:
    loop_time = LoopTime()
    loop_time.note("anna", 0.0)
    started = asyncio.get_running_loop().time()
    await loop_time.wait("anna")
    assert asyncio.get_running_loop().time() - started < 0.001


async def test_shares_whose_pauses_are_over_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_MANY", 10)
    monkeypatch.setattr(rates, "_MESSAGE_S", 0.0)
    loop_time = LoopTime()
    for i in range(100):
        loop_time.note(f"address {i}", 0.0)
    assert len(loop_time._free_at) <= 12
