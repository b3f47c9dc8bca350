"""Clicks that go on while something happens to the servers, and what of that their clients saw.

Clients whose server is gone ask the next one, as clients do. Does not know what happens.
"""

import asyncio
import threading
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import Self

from tests.bench.load import read_reply

_PATIENCE_S = 30.0
"""For one reply."""
_START_S = 30.0


class Clicking:
    """Clients that send requests in turn to servers of 127.0.0.1 while the block runs, each from another one on."""

    def __init__(
        self, ports: Sequence[int], requests: Sequence[bytes], *, clients: int, pause_s: float
    ) -> None:
        self._ports, self._requests = ports, requests
        self._clients, self._pause_s = clients, pause_s
        self.latencies: list[float] = []
        """Seconds until each answer, other servers that were asked included."""
        self.failures: list[str] = []
        """What a client would have to handle."""
        self.lost = 0
        """Connections that ended before the answer."""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        """Begin. Each client has had an answer then, or there was a failure."""
        self._thread.start()
        until = perf_counter() + _START_S
        while len(self.latencies) < self._clients and not self.failures:
            if perf_counter() > until:
                self._is_over.set()
                raise TimeoutError(f"{len(self.latencies)} clicks were answered in {_START_S:.0f} s.")
            self._is_over.wait(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End when all answers are there."""
        self._is_over.set()
        self._thread.join(_PATIENCE_S * (1 + len(self._ports)))

    async def _run(self) -> None:
        await asyncio.gather(*map(self._client, range(self._clients)))

    async def _client(self, number: int) -> None:
        port = self._ports[number % len(self._ports)]
        at = len(self._requests) * number // self._clients
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._is_over.is_set():
            started = perf_counter()
            failed: list[str] = []
            while len(failed) <= len(self._ports):
                try:
                    connection = connection or await asyncio.open_connection("127.0.0.1", port)
                    reader, writer = connection
                    writer.write(self._requests[at % len(self._requests)])
                    async with asyncio.timeout(_PATIENCE_S):
                        status, body = await read_reply(reader)
                except (OSError, EOFError, TimeoutError) as error:
                    self.lost += 1
                    failed.append(repr(error))
                    port = self._ports[(self._ports.index(port) + 1) % len(self._ports)]
                    if connection:
                        connection[1].close()
                    connection = None
                    continue
                if status != 200:
                    self.failures.append(f"{status} {body[:300].decode(errors='replace')}")
                break
            else:
                self.failures.append(failed[-1])
            self.latencies.append(perf_counter() - started)
            at += 1
            await asyncio.sleep(self._pause_s)
        if connection:
            connection[1].close()
