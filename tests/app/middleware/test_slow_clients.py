"""Clients that send or read nothing, or a byte now and then: they are disconnected, and others are served."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.middleware import request_heads
from app.middleware.access import App, Receive, Scope, Send
from app.middleware.request_heads import most_connections, patient_protocol
from app.middleware.websockets import patient_websocket
from app.settings import Settings
from tests.fakes import LONG_S, error, serving

SOON_S = 0.2
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = HEAD[:-2] + (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
MUCH = bytes(16 << 20)
"""More than the system keeps for a connection."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request with 204, a POST after its body."""
    while scope["method"] == "POST" and (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def say_much(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request and every WebSocket with MUCH."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": MUCH})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": MUCH})


@asynccontextmanager
async def listening(*, patience_s: float = LONG_S, most: int = 100, app: App = answer) -> AsyncIterator[int]:
    """Yield the port of a server with our protocol."""
    ws = patient_websocket(patience_s=patience_s)
    config, state = uvicorn.Config(app, lifespan="off", log_config=None, ws=ws), ServerState()
    config.load()
    protocol = patient_protocol(patience_s=patience_s, most=most)
    server = await asyncio.get_running_loop().create_server(
        lambda: protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]
        for connection in list(state.connections):
            connection.shutdown()
        while state.connections:  # noqa: ASYNC110  # Uvicorn has no event for this
            await asyncio.sleep(0.001)


async def asks(connection: Connection, head: bytes = HEAD) -> bool:
    """Whether a request on this connection is answered."""
    reader, writer = connection
    writer.write(head)
    try:
        return b" 204 " in await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


async def ended(connection: Connection) -> bytes:
    """Return everything received until the server closes the connection."""
    async with asyncio.timeout(LONG_S):
        try:
            return await connection[0].read()
        except ConnectionResetError:
            return b""


async def trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send one byte per fifth of the server's patience."""
    for byte in data:
        writer.write(bytes([byte]))
        await asyncio.sleep(SOON_S / 5)


@pytest.mark.parametrize(
    "said", [b"", HEAD[:10], HEAD[:-2], b"\r\n" * 40], ids=["nothing", "some", "most", "empty lines"]
)
async def test_a_head_that_does_not_come_ends_the_connection(said: bytes) -> None:
    async with listening(patience_s=SOON_S) as port:
        connection = await asyncio.open_connection("127.0.0.1", port)
        trickling = asyncio.create_task(trickle(connection[1], said))
        assert await ended(connection) == b""
        trickling.cancel()
        connection[1].close()


async def test_a_second_head_that_does_not_come_ends_it_too() -> None:
    async with listening(patience_s=SOON_S) as port:
        connection = await asyncio.open_connection("127.0.0.1", port)
        assert await asks(connection)
        trickling = asyncio.create_task(trickle(connection[1], HEAD))
        assert await ended(connection) == b""
        trickling.cancel()
        connection[1].close()


async def test_a_pause_between_requests_and_a_long_body_are_not_its_subject() -> None:
    async with listening(patience_s=SOON_S) as port:
        connection = await asyncio.open_connection("127.0.0.1", port)
        assert await asks(connection)
        await asyncio.sleep(1.5 * SOON_S)
        assert await asks(connection)
        connection[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        await asyncio.sleep(1.5 * SOON_S)
        assert await asks(connection, b"123456789")
        connection[1].close()


async def test_who_is_quiet_for_longest_makes_room_for_who_speaks() -> None:
    async with listening(most=3) as port:
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        assert await asks(connections[0])  # so its quiet time starts here
        connections += [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for quiet in connections[1:3]:
            assert await ended(quiet) == b""
        for kept in (connections[0], *connections[3:]):
            assert await asks(kept)
        for _, writer in connections:
            writer.close()


async def test_who_is_answered_makes_room_for_nobody() -> None:
    async with listening(most=2) as port:
        working = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in working:
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        await asyncio.sleep(SOON_S)
        late = await asyncio.open_connection("127.0.0.1", port)
        assert await ended(late) == b""
        for connection in working:
            assert await asks(connection, b"123456789")
        for _, writer in (*working, late):
            writer.close()


@pytest.mark.parametrize("head", [HEAD, UPGRADE], ids=["http", "websocket"])
async def test_who_reads_nothing_of_a_reply_is_not_waited_for(head: bytes) -> None:
    """The reply stayed in memory, and a server that was told to stop ended with an error after its deadline."""
    async with asyncio.timeout(LONG_S):
        async with listening(patience_s=SOON_S, app=say_much) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            writer.write(head)
            await reader.readexactly(1)
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(len(MUCH))
        writer.close()


async def test_who_reads_slowly_but_steadily_gets_the_whole_reply() -> None:
    async with listening(patience_s=SOON_S, app=say_much) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        writer.write(HEAD)
        await reader.readuntil(b"\r\n\r\n1000000\r\n")
        for _ in range(8):
            await reader.readexactly(len(MUCH) // 8)
            await asyncio.sleep(SOON_S / 4)
        assert await reader.readexactly(7) == b"\r\n0\r\n\r\n"
        writer.close()


@pytest.mark.parametrize(
    ("limits", "raised", "most"),
    [
        ((1024, 4096), (4096, 4096), 3840),
        ((1024, resource.RLIM_INFINITY), (65_792, resource.RLIM_INFINITY), 65_536),
        ((4096, 4096), None, 3840),
        ((300, 300), None, 150),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, 65_536),
    ],
)
def test_as_many_connections_as_the_process_may_have_files(
    limits: tuple[int, int], raised: tuple[int, int] | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(request_heads.resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(request_heads.resource, "setrlimit", lambda _, wanted: asked.append(wanted))
    assert most_connections() == most
    assert asked == ([raised] if raised else [])


@pytest.mark.parametrize("pause_s", [SOON_S / 10, 4 * SOON_S], ids=["a byte now and then", "nothing more"])
async def test_a_body_that_takes_for_ever_is_refused(pause_s: float) -> None:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(pause_s)

    async with serving(Settings(workers=2, deadline_s=SOON_S)) as served:
        response = await served.client.post("/embed", content=body())
        assert error(response) == (400, "bad_request")
        assert "too slowly" in response.text
        assert response.headers["connection"] == "close"  # the server does not wait for the rest


async def test_a_body_that_comes_slowly_but_steadily_is_read() -> None:
    """It may take longer than the patience, because each kilobyte adds a second."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield bytes(1024)
            await asyncio.sleep(SOON_S / 4)

    async with serving(Settings(workers=2, deadline_s=SOON_S)) as served:
        response = await served.client.post("/embed", content=body(), headers={"Content-Type": "image/png"})
        assert error(response) == (422, "invalid_image")
