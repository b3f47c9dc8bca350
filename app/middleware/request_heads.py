"""Bounds what a connection may cost before there is a request: time, bytes, headers, pipelined requests.

Uvicorn itself bounds only the pause between two requests. Does not know about requests and bodies (uploads.py).
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import BadRequest, RequestHeadTooLarge, ServiceError
from app.middleware.raw_replies import raw_reply
from app.middleware.readers import Reader

if sys.platform != "win32":
    import resource

_OTHER_FILES = 256
"""File descriptors for everything except connections: libraries, the register, files that are read and written."""
_MOST_CONNECTIONS = 65_536

MAX_HEAD_BYTES = 64 * 1024
"""Bytes of a request's head, of its trailers, or of what stands between two chunks of its body."""
MAX_HEADERS = 128
"""Headers of a request, trailers included."""
_LINGER_S = 1.0
"""Time for a client that is still sending to read its reply; what it sends meanwhile is dropped."""
_LINGER_BYTES = 1024
"""Whoever sends as much in that time gets as much time again."""
_MAX_PIPELINED = 32
"""Requests that one connection sends ahead of their answers."""

log = logging.getLogger(__name__)


def most_connections() -> int:
    """Raise the limit of open files as far as this process may. Return how many connections it has room for."""
    if sys.platform == "win32":
        return _MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(allowed - _OTHER_FILES, allowed // 2)


class _AnswerTo(asyncio.Transport):
    """What the answer to one request is written to. `linger` ends the connection of one that is still arriving."""

    def __init__(self, cycle: RequestResponseCycle, *, linger: Callable[[], None]) -> None:
        super().__init__()
        self._cycle, self._transport, self._linger = cycle, cycle.transport, linger

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        if self._cycle.response_complete and self._cycle.more_body and not self._transport.is_closing():
            self._linger()
        else:
            self._transport.close()


def without_offer(method: bytes, url: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the head of a request without what offers another protocol."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name in (b"upgrade", b"http2-settings"):
            continue
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            kept = [each for each in options if each.lower() not in (b"upgrade", b"http2-settings")]
            value = b", ".join(kept)
        lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def patient_protocol(*, patience_s: float, most: int) -> type[HttpToolsProtocol]:
    """Return a subclass of Uvicorn's protocol that closes a connection without a whole head after `patience_s`.

    Heads of more than MAX_HEAD_BYTES or MAX_HEADERS are rejected with 431, while they arrive.

    The time counts from the connection's start, and from the first byte of each further request; later bytes do
    not restart the clock. If more than `most` connections are open, the one that has been quiet longest is closed
    for the newest, so that active clients are served. A connection whose request is being answered is not closed,
    unless its client reads nothing of what is sent for `patience_s` (readers.py).
    """
    quiet: dict[HttpToolsProtocol, asyncio.TimerHandle | None] = {}  # quiet for longest first

    def end_quiet(connection: HttpToolsProtocol) -> None:
        if (timer := quiet.pop(connection, None)) is not None:
            timer.cancel()

    class PatientProtocol(HttpToolsProtocol):
        """One connection."""

        _refusal: ServiceError | None = None
        _barren_bytes = 0
        """Received since the last head, the last byte of a body, or the end of a request."""
        _answered: RequestResponseCycle | None = None
        """The request that is being answered. Others wait in the pipeline; Uvicorn's `cycle` is the last one."""
        _part: memoryview = memoryview(b"")
        """What the parser is reading."""
        _dropped_bytes: int | None = None
        """Received since the last look, if everything was said; else None."""
        _is_stopping = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in Uvicorn
            super().connection_made(transport)
            self._reader = Reader(transport, patience_s=patience_s)
            self._expect_head()
            if len(self.connections) > most:
                longest = next(iter(quiet))  # exists: this connection is in it
                end_quiet(longest)
                longest.transport.abort()
                log.debug("Closed the longest idle connection, because more than %d are open.", most)

        def data_received(self, data: bytes) -> None:
            if self._dropped_bytes is not None:
                self._dropped_bytes += len(data)
                return
            if self.cycle is None or self.cycle.response_complete:
                self._expect_head()
            if self._refusal is not None:
                return
            rest = memoryview(data)  # whose slices are no copies: these are all bytes of all bodies
            while rest and not self.transport.is_closing():
                # No further than the limit, so that a larger head is noticed before it is parsed.
                room = max(MAX_HEAD_BYTES - self._barren_bytes, 1)
                part, rest = rest[:room], rest[room:]
                self._barren_bytes += len(part)
                self._part = part
                super().data_received(part)  # type: ignore[arg-type]  # the parser takes any buffer
                if self.transport.get_protocol() is not self:  # a WebSocket now, which has its own limits
                    if rest:
                        # asyncio's type of a protocol has no data_received; all that Uvicorn switches to do
                        self.transport.get_protocol().data_received(bytes(rest))  # type: ignore[attr-defined]
                    return
                if self._barren_bytes > MAX_HEAD_BYTES:
                    self._refusal = RequestHeadTooLarge(
                        f"The head of the request is larger than {MAX_HEAD_BYTES // 1024} KiB."
                    )
                    self.send_400_response("")
                if self._refusal is not None:
                    return

        def on_header(self, name: bytes, value: bytes) -> None:
            super().on_header(name, value)
            if len(self.headers) > MAX_HEADERS:
                self._refusal = RequestHeadTooLarge(f"The request has more than {MAX_HEADERS} headers.")
                raise self._refusal

        def on_headers_complete(self) -> None:
            if self._offers_another_protocol():
                return
            end_quiet(self)
            self._barren_bytes = 0
            if len(self.pipeline) >= _MAX_PIPELINED:
                self._refusal = BadRequest(
                    f"More than {_MAX_PIPELINED} requests were sent ahead of their answers."
                )
                raise self._refusal
            if self.parser.get_http_version() == "1.0":  # knows no 100 Continue (RFC 9110, 10.1.1)
                self.expect_100_continue = False
            before = self.cycle
            super().on_headers_complete()
            if self.cycle is not before:
                self.cycle.transport = _AnswerTo(self.cycle, linger=self._linger)

        def on_body(self, body: bytes) -> None:
            self._barren_bytes = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            if self._offers_another_protocol():
                return
            self._barren_bytes = 0
            super().on_message_complete()

        def _offers_another_protocol(self) -> bool:
            is_offer = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
            return is_offer and not self._should_upgrade()

        def _get_upgrade(self) -> bytes | None:
            """Uvicorn reads one line of Connection. A proxy may add another one (RFC 9110, 5.3)."""
            lines = b",".join(value for name, value in self.headers if name == b"connection")
            if b"upgrade" not in [option.strip() for option in lines.lower().split(b",")]:
                return None
            return next((value.lower() for name, value in self.headers if name == b"upgrade"), None)

        def _unsupported_upgrade_warning(self) -> None:
            """Read a request without its offer of another protocol, as Java's and curl's of HTTP/2 (h2c).

            A server may pass over the offer (RFC 9110, 7.8), but this parser takes all that follows the head, the
            body above all, for that protocol. So another parser gets the head without the offer, and the rest.
            """
            ended = sys.exception()
            if not isinstance(ended, HttpParserUpgrade) or not self._offers_another_protocol():
                return
            rest = bytes(self._part[ended.args[0] :])
            head = without_offer(
                self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers
            )
            self.parser = HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as Uvicorn does
            self._part = memoryview(head + rest)
            super().data_received(self._part)  # type: ignore[arg-type]  # as above

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # Uvicorn's signature
            """Refuse the connection, in the form of all errors; within an answer there is no room for that."""
            answered = self._answered
            if answered is None or answered.response_complete or not answered.response_started:
                self._refusal = self._refusal or BadRequest("The request is not valid HTTP.")
                end_quiet(self)
                self._give_up_answers()
                # A client that is still sending would lose the reply if the connection were closed at once.
                self.transport.write(raw_reply(self._refusal))
                if self.transport.can_write_eof():
                    self.transport.write_eof()
                self.loop.call_later(_LINGER_S, self.transport.close)
            else:
                self.transport.abort()

        def shutdown(self) -> None:
            self._is_stopping = True
            super().shutdown()

        def _linger(self) -> None:
            """End the connection after an answer that did not wait for the body's end, as Connection: close asks.

            A client that is still sending, as most do until all is sent, would find the connection reset.
            """
            self._dropped_bytes = 0
            self.pipeline.clear()
            self.transport.write_eof()
            self._linger_on(until=self.loop.time() + (0.0 if self._is_stopping else patience_s))

        def _linger_on(self, *, until: float) -> None:
            def look() -> None:
                if (self._dropped_bytes or 0) < _LINGER_BYTES or self.loop.time() > until:
                    self.transport.close()
                else:
                    self._linger_on(until=until)

            self._dropped_bytes = 0
            self.loop.call_later(_LINGER_S, look)

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            self._answered = cycle
            super()._start_asgi_task(cycle, app)

        def _give_up_answers(self) -> None:
            """Tell all requests of this connection that nobody reads their answers. Uvicorn tells the last one."""
            for cycle in (self._answered, *(waiting for waiting, _ in self.pipeline)):
                if cycle is not None and not cycle.response_complete:
                    cycle.disconnected = True
                    cycle.message_event.set()
            self.pipeline.clear()

        def on_response_complete(self) -> None:
            if not self.pipeline and not self.transport.is_closing():
                quiet.setdefault(self, None)  # no timer: Uvicorn's own bounds the pause between requests
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._reader.wait()

        def resume_writing(self) -> None:
            self._reader.end_wait()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            end_quiet(self)
            self._reader.end_wait()
            self._give_up_answers()
            super().connection_lost(exc)

        def _expect_head(self) -> None:
            if quiet.get(self) is None:
                quiet[self] = self.loop.call_later(patience_s, self.timeout_keep_alive_handler)

    return PatientProtocol
