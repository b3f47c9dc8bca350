"""Uvicorn's WebSocket protocol with bounds: on the handshake's time, on messages before a key, on work at a time.

Does not know about keys and prompts: the endpoint says when larger messages are welcome.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from http import HTTPStatus
from typing import Any, TypeAlias, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from app.errors import BadRequest, Overloaded
from app.middleware.access import Scope
from app.middleware.raw_replies import error_body, raw_reply
from app.middleware.readers import Reader

FIRST_MESSAGE_BYTES = 16 * 1024
"""Largest message of a client that has not shown a key: room for a key, or for a prompt with many clicks."""

_PARSED_AT_ONCE = 16 * 1024
"""Bytes of frames parsed before other connections get their turn."""

_EXTENSION = "sam2.welcome_messages"


Holding: TypeAlias = Callable[[], AbstractContextManager[Callable[[int], None]]]
"""Begins a block, for one message. Its function counts bytes as they arrive; it raises Overloaded."""


def welcome_messages(scope: Scope, max_bytes: int, *, holding: Holding) -> None:
    """Accept messages of up to `max_bytes` on this connection from now on. No effect under other servers.

    One under way is held by `holding`: otherwise each of thousands of connections would keep the most of one.
    """
    if (welcome := scope.get("extensions", {}).get(_EXTENSION)) is not None:
        welcome(max_bytes, holding)


class _Handshake(ServerProtocol):
    """The library's protocol, but its refusals have the body of our errors."""

    def reject(self, status: int, text: str) -> Response:
        """Return the reply to an upgrade that is refused; `text` says why, in its first line."""
        response = super().reject(status, text)
        reason = text.partition("\n")[0] or "This WebSocket is refused."
        response.body = error_body(HTTPStatus(status).name.lower(), reason)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(response.body))),
        ):
            del response.headers[name]
            response.headers[name] = value
        return response


def patient_websocket(*, patience_s: float) -> type[WebSocketsSansIOProtocol]:
    """Return a subclass of Uvicorn's protocol that closes a connection without a handshake after `patience_s`.

    It also answers upgrades that the websockets library refuses, those with a body for example. Uvicorn 0.54 leaves
    them open for ever.
    """

    class PatientWebSocket(WebSocketsSansIOProtocol):
        """One connection."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.conn = _Handshake(max_size=self.config.ws_max_size, logger=self.conn.logger)
            self._allowance = FIRST_MESSAGE_BYTES
            """Bytes of frames still parsed before the endpoint welcomes more."""
            self._unparsed = bytearray()
            self._holding: Holding | None = None
            self._held = ExitStack()
            self._arrived: Callable[[int], None] | None = None
            """Counts bytes of the message that is under way, if there is one."""
            self._handshake_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self._reader = Reader(self.transport, patience_s=patience_s)
            self._handshake_timer = self.loop.call_later(patience_s, self._give_up)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._reader.wait()

        def resume_writing(self) -> None:
            self._reader.end_wait()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end_timer()
            self._reader.end_wait()
            self._unparsed.clear()
            self._release()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._unparsed += data
            self._parse()

        def handle_connect(self, event: Request) -> None:
            super().handle_connect(event)
            if not self.close_sent:  # then there is no scope
                # ASGI's type knows extensions of dictionaries only; ours is a function
                extensions: dict[str, Any] = cast(dict[str, Any], self.scope["extensions"])
                extensions[_EXTENSION] = self._welcome

        async def receive(self) -> Any:
            """The next event. Bytes behind the last one are parsed now: it may have made more of them welcome."""
            if self.handshake_complete:
                self._end_timer()
            if self.read_paused and self.queue.empty():
                self.read_paused = False
                self._parse()
                if not self.read_paused:
                    self.transport.resume_reading()
            event = await self.queue.get()
            self._release()  # the endpoint counts it from here on
            return event

        async def send(self, message: Any) -> None:
            """A refused upgrade that is answered is done. Uvicorn logs an error for those that are not."""
            await super().send(message)
            if self.initial_response is not None and self.close_sent:
                self.handshake_complete = True

        def send_receive_event_to_app(self) -> None:
            """A text that is not UTF-8 ends the connection. Uvicorn also logs it as an error of the server."""
            if self.curr_msg_data_type == "text" and not self.close_sent:
                self.frames = [b"".join(self.frames)]
                try:
                    self.frames[0].decode()
                except UnicodeDecodeError:
                    self.frames = []
                    self.conn.fail(CloseCode.INVALID_DATA)
                    self.handle_parser_exception()
                    return
            super().send_receive_event_to_app()

        def _parse(self) -> None:
            """Parse until there is an event for the endpoint, which pauses reading, or nothing is left."""
            while self._unparsed and not self.read_paused and not self.transport.is_closing():
                size = _PARSED_AT_ONCE
                if self.handshake_initiated and self._allowance < _PARSED_AT_ONCE:
                    size = self._allowance
                if not size:
                    self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too large before a key")
                    self.handle_parser_exception()
                    return
                part = bytes(self._unparsed[:size])
                del self._unparsed[:size]
                if self.handshake_initiated:
                    self._allowance -= len(part)
                super().data_received(part)
                if self._holding is not None and not self.read_paused:
                    self._hold(len(part), self._holding)
                if not self.handshake_initiated and self.conn.handshake_exc is not None:
                    self._refuse(str(self.conn.handshake_exc))

        def _welcome(self, max_bytes: int, holding: Holding) -> None:
            self.conn.max_message_size = max_bytes
            self._allowance = sys.maxsize
            self._holding = holding

        def _hold(self, size: int, holding: Holding) -> None:
            try:
                if self._arrived is None:
                    self._arrived = self._held.enter_context(holding())
                self._arrived(size)
            except Overloaded as error:
                self._unparsed.clear()
                if self.close_sent:
                    self.transport.close()
                    return
                self.conn.fail(CloseCode.TRY_AGAIN_LATER, error.message)
                self.handle_parser_exception()

        def _release(self) -> None:
            self._arrived = None
            self._held.close()

        def _give_up(self) -> None:
            if not self.handshake_complete:
                self._refuse(f"the handshake took longer than {patience_s:g} s")

        def _refuse(self, reason: str) -> None:
            self.transport.write(raw_reply(BadRequest(f"The WebSocket upgrade is not valid: {reason}.")))
            self.transport.close()

        def _end_timer(self) -> None:
            if self._handshake_timer is not None:
                self._handshake_timer.cancel()
                self._handshake_timer = None

    return PatientWebSocket
