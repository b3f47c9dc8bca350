"""Messages on a connection: who is let in, what is refused, and that a large one holds up no small one."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.cluster import messages
from app.cluster.messages import Kind, Messages

SECRET = b"s" * 32


class Side(Messages):
    """Keeps what it gets."""

    def __init__(self, secret: bytes = SECRET, *, is_device: bool) -> None:
        super().__init__(secret, is_device=is_device)
        self.got: asyncio.Queue[tuple[Kind, int, bytes]] = asyncio.Queue()
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.is_in = asyncio.Event()

    def greeted(self) -> None:
        self.is_in.set()

    def received(self, kind: Kind, number: int, data: bytearray) -> None:
        self.got.put_nowait((kind, number, bytes(data)))

    def lost(self, error: ConnectionError) -> None:
        self.ended.set_result(self.is_in.is_set())

    def stop_reading(self) -> None:
        self._transport.pause_reading()

    def go_on_reading(self) -> None:
        self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        self._transport.write(data)


@asynccontextmanager
async def connected(
    front_secret: bytes = SECRET, *, front_is: bool = False
) -> AsyncIterator[tuple[Side, Side]]:
    """Connect a Front to a Device."""
    here, there = socket.socketpair(socket.AF_UNIX)
    loop = asyncio.get_running_loop()
    _, device = await loop.create_connection(lambda: Side(is_device=True), sock=here)
    _, front = await loop.create_connection(lambda: Side(front_secret, is_device=front_is), sock=there)
    try:
        yield front, device
    finally:
        front.abort()
        device.abort()


@pytest.fixture(autouse=True)
def _any_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_notice_dead_machines", lambda _: None)  # of TCP


async def test_messages_of_any_size_come_through_in_both_directions() -> None:
    async with connected() as (front, device):
        await front.is_in.wait()
        for number, data in enumerate((b"", b"x", b"y" * messages._PIECE_BYTES, b"z" * 1_000_001)):
            await asyncio.gather(
                front.send(Kind.CALL, number, data), device.send(Kind.ANSWER, number, data[::-1])
            )
            assert await device.got.get() == (Kind.CALL, number, data)
            assert await front.got.get() == (Kind.ANSWER, number, data[::-1])


async def test_a_large_message_holds_up_no_small_one() -> None:
    async with connected() as (front, device):
        await front.is_in.wait()
        large = asyncio.create_task(front.send(Kind.CALL, 1, b"x" * 8_000_000))
        await asyncio.sleep(0)
        assert not large.done()
        await front.send(Kind.CALL, 2, b"small")
        assert [(await device.got.get())[1] for _ in range(2)] == [2, 1]


async def test_who_is_not_read_waits_and_hears_of_the_end() -> None:
    async with connected() as (front, device):
        await front.is_in.wait()
        device.stop_reading()
        sending = asyncio.create_task(front.send(Kind.CALL, 1, b"x" * 8_000_000))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not sending.done()
        device.abort()
        with pytest.raises(ConnectionError):
            await sending
        with pytest.raises(ConnectionError):
            await front.send(Kind.CALL, 2, b"")
        front.post(Kind.END, 1)  # nobody hears it


async def test_what_is_given_up_leaves_nothing() -> None:
    async with connected() as (front, device):
        await front.is_in.wait()
        device.stop_reading()
        sending = asyncio.create_task(front.send(Kind.CALL, 1, b"x" * 8_000_000))
        await asyncio.sleep(0)
        sending.cancel()
        front.post(Kind.END, 1)
        device.go_on_reading()
        assert await device.got.get() == (Kind.END, 1, b"")
        assert device._begun == {}


@pytest.mark.parametrize(("secret", "front_is"), [(b"t" * 32, False), (SECRET, True)])
async def test_who_does_not_know_the_secret_is_not_let_in(secret: bytes, front_is: bool) -> None:
    async with connected(secret, front_is=front_is) as (front, device):
        assert not await device.ended
        assert not await front.ended
        assert device.got.empty()


async def test_what_one_side_proves_cannot_be_sent_back_to_it() -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    loop = asyncio.get_running_loop()
    _, device = await loop.create_connection(lambda: Side(is_device=True), sock=here)
    reader, writer = await asyncio.open_connection(sock=there)
    writer.write(await reader.readexactly(39))  # its own hello
    writer.write(await reader.readexactly(32))  # and its proof for it
    assert not await device.ended
    writer.close()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"SAM2/9\n" + b"x" * 100, b"\x00"])
async def test_what_is_no_front_is_refused(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    _, device = await asyncio.get_running_loop().create_connection(lambda: Side(is_device=True), sock=here)
    _reader, writer = await asyncio.open_connection(sock=there)
    writer.write(data)
    assert not await device.ended
    assert "is refused" in caplog.text
    writer.close()


async def test_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_GREETING_S", 0.01)
    here, there = socket.socketpair(socket.AF_UNIX)
    _, device = await asyncio.get_running_loop().create_connection(lambda: Side(is_device=True), sock=here)
    assert not await device.ended
    there.close()


async def test_bounds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_PIECE_BYTES", 1000)
    async with connected() as (front, device):
        await front.is_in.wait()
        await device.is_in.wait()
        with monkeypatch.context() as larger:
            larger.setattr(messages, "MESSAGE_BYTES", 10_000)
            with pytest.raises(ValueError, match="of 10000 at most"):
                await front.send(Kind.CALL, 1, b"x" * 10_001)
        piece = messages._HEAD.pack(Kind.CALL, 1, 1001)
        front.write(piece)
        assert await device.ended
    async with connected() as (front, device):
        await front.is_in.wait()
        await device.is_in.wait()
        await front.send(Kind.CALL, 1, b"x" * 10_001)
        assert (await device.got.get())[1] == 1
        monkeypatch.setattr(messages, "MESSAGE_BYTES", 10_000)
        for _ in range(11):
            front.write(messages._HEAD.pack(Kind.CALL | messages._MORE, 1, 1000) + b"x" * 1000)
        assert await device.ended
    async with connected() as (front, device):
        await front.is_in.wait()
        front.write(messages._HEAD.pack(77, 1, 0))
        assert await device.ended
