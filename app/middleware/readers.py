"""Ends connections whose clients do not read what is sent to them: they sleep, or their network is gone.

Otherwise a reply stays in memory, and the server cannot stop, for as long as TCP takes a client for alive, which
may be for ever. Does not know what is sent.
"""

import asyncio


class Reader:
    """The client of one connection, as the one who reads. It has `patience_s` seconds for each step forward."""

    def __init__(self, transport: asyncio.Transport, *, patience_s: float) -> None:
        self._transport = transport
        self._patience_s = patience_s
        self._timer: asyncio.TimerHandle | None = None
        # The protocol then hears of all bytes that wait, even of a few: each keeps a closed transport open.
        transport.set_write_buffer_limits(high=0)

    def wait(self) -> None:
        """Begin to wait for it: bytes are left that its connection does not take."""
        self.end_wait()
        unread = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._check, unread)

    def end_wait(self) -> None:
        """It has taken all bytes, or the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, unread: int) -> None:
        if self._transport.get_write_buffer_size() < unread:
            self.wait()
        else:
            self._transport.abort()
