"""Messages between a Front and a Device on one connection, in pieces, so that a large one holds up no small one.

Nothing is read before both sides have proved that they know the same secret. Does not know what messages say.
"""

import asyncio
import hashlib
import hmac
import logging
import secrets
import socket
import struct
from enum import IntEnum
from typing import cast

log = logging.getLogger(__name__)

MESSAGE_BYTES = 2**30
"""Most bytes of a message: an upload, or the masks of a search.

It is held several times while it is written and read: with 1.1 GiB, two processes took all of 15.
"""
_PIECE_BYTES = 256 * 2**10
_HELLO = b"SAM2/1\n"
_NONCE_BYTES, _PROOF_BYTES = 32, 32
_GREETING_S = 5.0
"""Time in which the other side proves itself."""
_HEAD = struct.Struct("!BQI")
"""Kind, number of the message, and bytes of this piece."""
_MORE = 0x80
"""Added to the kind of each piece but the last one."""


class Kind(IntEnum):
    """What a message is. One with a number belongs to the call of that number."""

    CALL = 1
    CALL_IN_STEPS = 2
    ANSWER = 3
    """Or one of several steps, of which the last one is the answer."""
    TAKEN = 4
    """A step has been taken, so there may be another one."""
    END = 5
    """Nothing more comes, or is wanted, of this number."""
    LEAVING = 6
    """The Device is being stopped: no new calls. Those under way are answered."""


_KINDS = {int(kind): kind for kind in Kind}


class _Refused(Exception):
    """The other side is none of ours, or does not keep the protocol."""


class Messages(asyncio.Protocol):
    """One side of a connection. `is_device` says which one it is."""

    def __init__(self, secret: bytes, *, is_device: bool) -> None:
        self._secret, self._is_device = secret, is_device
        self._nonce = secrets.token_bytes(_NONCE_BYTES)
        self._theirs = b""
        self._is_greeted = False
        self._read = bytearray()
        self._begun: dict[int, bytearray] = {}
        """Messages of which pieces are there."""
        self._writable = asyncio.Event()
        self._gone = asyncio.Event()
        self._transport: asyncio.Transport
        self._patience: asyncio.TimerHandle
        self.is_lost = False

    def greeted(self) -> None:
        """The other side has proved itself."""
        raise NotImplementedError

    def received(self, kind: Kind, number: int, data: bytearray) -> None:
        """A whole message is there."""
        raise NotImplementedError

    def lost(self, error: ConnectionError) -> None:
        """The connection has ended. Called once, also if it never was greeted."""
        raise NotImplementedError

    async def send(self, kind: Kind, number: int, data: bytes) -> None:
        """Send a message, as fast as the other side reads. Raises ConnectionError.

        If it is cancelled, END has to follow.
        """
        if len(data) > MESSAGE_BYTES:
            raise ValueError(f"a message of {len(data)} bytes, of {MESSAGE_BYTES} at most")
        rest = memoryview(data)
        while True:
            await self._writable.wait()
            if self.is_lost:
                raise ConnectionError("The connection has ended.")
            piece, rest = rest[:_PIECE_BYTES], rest[_PIECE_BYTES:]
            head = _HEAD.pack(kind | _MORE if rest else kind, number, len(piece))
            # Not writelines: before Python 3.12.9 and 3.13.2 it never pauses, whatever waits (CPython's gh-127655).
            self._transport.write(b"".join((head, piece)))
            if not rest:
                return

    def post(self, kind: Kind, number: int = 0) -> None:
        """Send a message without data, at once. It is not sent if the connection has ended."""
        if not self.is_lost:
            self._transport.write(_HEAD.pack(kind, number, 0))

    def abort(self) -> None:
        """End the connection."""
        self._transport.abort()

    async def close(self) -> None:
        """End the connection when what was written has been sent."""
        self._transport.close()
        await self._gone.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        _notice_dead_machines(self._transport.get_extra_info("socket"))
        self._writable.set()
        self._patience = asyncio.get_running_loop().call_later(_GREETING_S, self.abort)
        self._transport.write(_HELLO + self._nonce)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._read += data
        try:
            if self._is_greeted or self._greet():
                self._take_pieces()
        except _Refused as error:
            log.warning(
                "A connection from %s is refused: %s", self._transport.get_extra_info("peername"), error
            )
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._patience.cancel()
        self.is_lost = True
        self._gone.set()
        self._writable.set()  # who waits for it raises
        self._begun.clear()
        self.lost(ConnectionError(f"The connection has ended: {error or 'it was closed'}"))

    def _greet(self) -> bool:
        """Check what the other side proves, as far as it is there. Return whether it has."""
        start = len(_HELLO) + _NONCE_BYTES
        if not _HELLO.startswith(self._read[: len(_HELLO)]):
            raise _Refused("it is no Front or Device, or one of another version")
        if not self._theirs and len(self._read) >= start:
            self._theirs = bytes(self._read[len(_HELLO) : start])
            self._transport.write(self._proof(self._theirs, self._nonce, of_device=self._is_device))
        if len(self._read) < start + _PROOF_BYTES:
            return False
        proof = bytes(self._read[start : start + _PROOF_BYTES])
        del self._read[: start + _PROOF_BYTES]
        if not hmac.compare_digest(
            proof, self._proof(self._nonce, self._theirs, of_device=not self._is_device)
        ):
            raise _Refused("it does not know the secret")
        self._patience.cancel()
        self._is_greeted = True
        self.greeted()
        return True

    def _proof(self, asked: bytes, own: bytes, *, of_device: bool) -> bytes:
        """Return the proof of one side for the nonce of the other one. Sides differ, so none can be sent back."""
        side = b"device" if of_device else b"front"
        return hmac.digest(self._secret, side + asked + own, hashlib.sha256)

    def _take_pieces(self) -> None:
        read, at = self._read, 0
        while len(read) >= (start := at + _HEAD.size):
            kind, number, count = _HEAD.unpack_from(read, at)
            if count > _PIECE_BYTES or kind & ~_MORE not in _KINDS:
                raise _Refused("it does not keep the protocol")
            if len(read) < (end := start + count):
                break
            self._take(kind, number, read[start:end])
            at = end
        del read[:at]

    def _take(self, kind: int, number: int, piece: bytearray) -> None:
        whole = self._begun.pop(number, None)
        if kind == Kind.END:
            self.received(Kind.END, number, piece)
            return
        if whole is None:
            whole = piece
        else:
            whole += piece
        if len(whole) > MESSAGE_BYTES:
            raise _Refused(f"it sends more than {MESSAGE_BYTES} bytes in one message")
        if kind & _MORE:
            self._begun[number] = whole
        else:
            self.received(_KINDS[kind], number, whole)


def _notice_dead_machines(connection: socket.socket) -> None:
    """Let the connection end within seconds if the other machine is gone. A process that stands still is not."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 4),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 10_000),  # of what was sent, in ms
    ):
        if hasattr(socket, option):  # they differ between systems
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
