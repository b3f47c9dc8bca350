"""What a connection may send before there is a request: heads, trailers and pipelines without end are refused."""

import asyncio
import json

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.middleware import request_heads
from app.middleware.access import Receive, Scope, Send
from app.middleware.request_heads import MAX_HEAD_BYTES, MAX_HEADERS
from tests.app.middleware.test_slow_clients import HEAD, answer, asks, ended, listening
from tests.fakes import LONG_S

START = b"GET / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def replies_to(port: int, *parts: bytes, times: int = 1) -> bytes:
    """Everything that the server answers to the parts, the last one sent that many times, until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        for part in (*parts, *([parts[-1]] * (times - 1))):
            writer.write(part)
            await writer.drain()

    sending = asyncio.create_task(send())
    reply = await ended((reader, writer))
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    writer.close()
    return reply


def refusal(reply: bytes) -> tuple[int, str]:
    """Status and code of an error."""
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    "part",
    [b"a: b\r\n" * 1000, b"a: " + b"b" * 60_000, b"a" * 60_000],
    ids=["headers", "a value", "a name"],
)
async def test_a_head_without_end_is_refused_while_it_arrives(part: bytes) -> None:
    async with listening() as port:
        assert refusal(await replies_to(port, START, part, times=200)) == (431, "request_head_too_large")


async def test_a_path_without_end_is_refused() -> None:
    async with listening() as port:
        reply = await replies_to(port, b"GET /", b"a" * 60_000, times=200)
        assert refusal(reply) == (431, "request_head_too_large")


async def test_a_large_head_that_ends_is_answered() -> None:
    async with listening() as port:
        connection = await asyncio.open_connection("127.0.0.1", port)
        large = START + b"a: " + b"b" * (MAX_HEAD_BYTES - 100) + b"\r\n\r\n"
        for _ in range(3):
            assert await asks(connection, large)
        connection[1].close()
        larger = START + b"a: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n"
        for pieces in ([larger], [larger[:30], larger[30:]]):
            assert refusal(await replies_to(port, *pieces)) == (431, "request_head_too_large")


@pytest.mark.parametrize(("count", "status"), [(MAX_HEADERS - 1, 204), (MAX_HEADERS, 431)])
async def test_headers_are_counted(count: int, status: int) -> None:
    head = START + b"".join(b"a%d: b\r\n" % i for i in range(count)) + b"Connection: close\r\n\r\n"
    if status == 204:
        head = head.replace(b"a0: b\r\n", b"")
    async with listening() as port:
        assert int((await replies_to(port, head)).split()[1]) == status


@pytest.mark.parametrize(
    ("before", "part"),
    [
        (b"0\r\n", b"a: b\r\n" * 100),
        (b"0\r\na: ", b"b" * 60_000),
        (b"1;", b"a" * 60_000),
    ],
    ids=["trailers", "a trailer", "an extension of a chunk"],
)
async def test_what_is_neither_head_nor_body_is_bounded_too(before: bytes, part: bytes) -> None:
    async with listening() as port:
        assert refusal(await replies_to(port, CHUNKED + before, part, times=200))[0] == 431


async def test_a_body_of_any_length_is_no_head() -> None:
    async with listening() as port:
        connection = await asyncio.open_connection("127.0.0.1", port)
        size = 10 * MAX_HEAD_BYTES
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
        assert await asks(connection, head + bytes(size))
        connection[1].close()


async def test_a_body_is_not_copied_on_its_way_to_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[bytes | memoryview] = []
    parse = HttpToolsProtocol.data_received

    def record(self: HttpToolsProtocol, data: bytes) -> None:
        parts.append(data)
        parse(self, data)

    monkeypatch.setattr(HttpToolsProtocol, "data_received", record)
    async with listening() as port:
        connection = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (4 * MAX_HEAD_BYTES)
        assert await asks(connection, head + bytes(4 * MAX_HEAD_BYTES))
        connection[1].close()
    assert all(isinstance(part, memoryview) and len(part) <= MAX_HEAD_BYTES for part in parts)


async def test_what_is_not_http_gets_an_error_of_our_form() -> None:
    async with listening() as port:
        assert refusal(await replies_to(port, b"\x16\x03\x01 a TLS handshake\r\n\r\n")) == (
            400,
            "bad_request",
        )


async def test_a_few_requests_may_be_sent_ahead_and_thousands_may_not() -> None:
    async with listening() as port:
        reply = await replies_to(port, HEAD * 9 + START + b"Connection: close\r\n\r\n")
        assert reply.count(b" 204 ") == 10
        reply = await replies_to(port, HEAD * 3000)
        assert reply.count(b" 204 ") < 100


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the method, the headers and the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    names = b",".join(name for name, _ in scope["headers"])
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})
    assert b"upgrade" not in names
    assert b"http2-settings" not in names


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("size", [9, 100_000])
@pytest.mark.parametrize("cut", [1, 40, 150, 100_000])
async def test_a_body_behind_an_offer_of_http_2_is_read(size: int, cut: int) -> None:
    """Java's HttpClient and curl --http2 offer it: each upload got 422 'The body is empty'."""
    body = bytes(range(1, 10)) * (size // 9)
    head = b"POST /a?b HTTP/1.1\r\nHost: x\r\n" + H2C + b"Content-Length: %d\r\n\r\n" % len(body)
    async with listening(app=echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):  # the connection goes on
            sent = head + body
            for at in range(0, 300, cut):
                writer.write(sent[at : at + min(cut, 300 - at)])
                await asyncio.sleep(0)
            writer.write(sent[300:])
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(body)) == body
        writer.close()


async def test_an_offer_without_a_body_and_chunks_behind_one_are_read() -> None:
    chunked = (
        b"POST / HTTP/1.1\r\nHost: x\r\n" + H2C + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    get = b"GET / HTTP/1.1\r\nHost: x\r\n" + H2C.replace(b"Upgrade,", b"close, Upgrade,") + b"\r\n"
    async with listening(app=echo) as port:
        reply = await replies_to(port, chunked + chunked + get)
    assert reply.count(b"HTTP/1.1 200 OK") == 3
    assert reply.count(b"abc") == 2
    assert reply.endswith(b"connection: close\r\n\r\n")


@pytest.mark.parametrize("ahead", [1, 2, 40])
async def test_a_refusal_is_no_fault_of_the_requests_before_it(
    ahead: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one wrote its answer behind the refusal: two tracebacks, and a 500 in the metrics."""
    async with listening(app=slowly) as port:
        reply = await replies_to(port, HEAD * ahead + b"no HTTP\r\n\r\n")
    assert refusal(reply) == (400, "bad_request")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_refusal_is_not_written_into_an_answer_that_has_begun() -> None:
    async with listening(app=endlessly) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        got = await reader.readuntil(b"line")
        writer.write(HEAD + b"no HTTP\r\n\r\n")
        got += await ended((reader, writer))
        writer.close()
    assert b"bad_request" not in got


async def test_who_leaves_is_noticed_by_all_that_was_sent_ahead() -> None:
    noticed = asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        noticed.set()

    async with listening(app=waits) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD * 3)
        await asyncio.sleep(0.05)
        writer.close()
        async with asyncio.timeout(LONG_S):
            await noticed.wait()


async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0.05)
    await answer(scope, receive, send)


async def endlessly(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(200):
        await send({"type": "http.response.body", "body": b"line", "more_body": True})
        await asyncio.sleep(0.01)


async def refuse_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with 413 before the body."""
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"large"})


@pytest.mark.parametrize("version", [b"1.0\r\n", b"1.1\r\nConnection: close\r\n"], ids=["1.0", "close"])
async def test_an_answer_before_the_bodys_end_reaches_a_client_that_sends_on(version: bytes) -> None:
    """PHP and nginx send so, and read when all is sent: their connection was reset, and they had no answer."""
    async with listening(app=refuse_at_once) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/" + version + b"Host: x\r\nContent-Length: 16777216\r\n\r\n")
        for _ in range(16):
            writer.write(bytes(1 << 20))
            await writer.drain()
        reply = await asyncio.wait_for(reader.read(), LONG_S)
        assert (reply[:12], reply[-5:]) == (b"HTTP/1.1 413", b"large")
        writer.close()


async def test_a_client_that_sends_no_more_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_heads, "_LINGER_S", 0.05)
    async with asyncio.timeout(LONG_S), listening(app=refuse_at_once) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.0\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        assert (await reader.read()).endswith(b"large")

        async def send_on() -> None:
            while True:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.01)

        with pytest.raises(ConnectionError):
            await send_on()
        writer.close()


async def test_a_body_is_sent_when_it_is_asked_for() -> None:
    """As curl does with more than a megabyte: it waits for 100 Continue."""
    async with asyncio.timeout(LONG_S), listening(app=echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(3) == b"abc"
        writer.close()
        old = (
            b"POST / HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc"  # does not know of 100
        )
        reply = await replies_to(port, old)
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
        assert reply.endswith(b"\r\n\r\nabc")
