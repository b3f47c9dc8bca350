"""Closes connections that do not send a request's head in time, and the longest idle one when too many are open.

Uvicorn itself bounds only the pause between two requests. Does not know about requests and bodies (uploads.py).
"""

import asyncio
import logging
import sys

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if sys.platform != "win32":
    import resource

_OTHER_FILES = 256
"""File descriptors for everything except connections: libraries, the register, files that are read and written."""
_MOST_CONNECTIONS = 65_536

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


def patient_protocol(*, patience_s: float, most: int) -> type[HttpToolsProtocol]:
    """Return a subclass of Uvicorn's protocol that closes a connection without a whole head after `patience_s`.

    The time counts from the connection's start, and from the first byte of each further request; later bytes do
    not restart the clock. If more than `most` connections are open, the one that has been quiet longest is closed
    for the newest, so that active clients are served. A connection whose request is being answered is never closed.
    """
    quiet: dict[HttpToolsProtocol, asyncio.TimerHandle | None] = {}  # quiet for longest first

    def end_quiet(connection: HttpToolsProtocol) -> None:
        if (timer := quiet.pop(connection, None)) is not None:
            timer.cancel()

    class PatientProtocol(HttpToolsProtocol):
        """One connection."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in Uvicorn
            super().connection_made(transport)
            self._expect_head()
            if len(self.connections) > most:
                longest = next(iter(quiet))  # exists: this connection is in it
                end_quiet(longest)
                longest.transport.abort()
                log.debug("Closed the longest idle connection, because more than %d are open.", most)

        def data_received(self, data: bytes) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self._expect_head()
            super().data_received(data)

        def on_headers_complete(self) -> None:
            end_quiet(self)
            super().on_headers_complete()

        def on_response_complete(self) -> None:
            if not self.pipeline and not self.transport.is_closing():
                quiet.setdefault(self, None)  # no timer: Uvicorn's own bounds the pause between requests
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            end_quiet(self)
            super().connection_lost(exc)

        def _expect_head(self) -> None:
            if quiet.get(self) is None:
                quiet[self] = self.loop.call_later(patience_s, self.timeout_keep_alive_handler)

    return PatientProtocol
