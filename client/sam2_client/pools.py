"""Connections of both clients: a pool for each process and, with asyncio, for each event loop.

A process that is forked has the connections of its parent: both would read the replies to each other's requests.
Connections of asyncio belong to one event loop, and nothing can be read from them in another one. Does not know
about requests.
"""

import asyncio
import os
from collections.abc import Callable

import httpx

from sam2_client.connection import environment_in_words


class Pool:
    """The connections of this process."""

    def __init__(self, opened: Callable[[], httpx.Client]) -> None:
        """Raises ValueError for what the environment says and cannot be used."""
        self._opened = opened
        self._process = os.getpid()
        with environment_in_words():
            self._http = opened()

    @property
    def http(self) -> httpx.Client:
        """What sends requests. After a fork it is another one; the parent's is left open, as the parent uses it."""
        if self._process != (process := os.getpid()) and not self._http.is_closed:
            with environment_in_words():
                self._http = self._opened()
            self._process = process
        return self._http


class LoopPools:
    """The connections of each event loop. Those of loops that are closed are dropped: they cannot be used."""

    def __init__(self, opened: Callable[[], httpx.AsyncClient]) -> None:
        """Raises ValueError for what the environment says and cannot be used."""
        self._opened = opened
        with environment_in_words():
            self._unused = [opened()]
        self._by_loop: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._is_closed = False

    @property
    def http(self) -> httpx.AsyncClient:
        """What sends requests in the running loop. Raises RuntimeError once it is closed."""
        if self._is_closed:
            raise RuntimeError("Cannot send a request, as the client has been closed.")
        loop = asyncio.get_running_loop()
        http = self._by_loop.get(loop)
        if http is None:
            for other in list(self._by_loop):
                if other.is_closed():
                    self._by_loop.pop(other, None)
            try:
                http = self._unused.pop()  # at once, as loops may run in threads
            except IndexError:
                with environment_in_words():
                    http = self._opened()
            self._by_loop[loop] = http
        return http

    async def close(self) -> None:
        """Close the connections of the running loop, and drop those of others."""
        self._is_closed = True
        http = self._by_loop.get(asyncio.get_running_loop())
        usable = [*self._unused, *([] if http is None else [http])]
        self._by_loop.clear()
        self._unused.clear()
        for each in usable:
            await each.aclose()
