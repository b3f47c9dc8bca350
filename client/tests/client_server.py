"""Runs the real service with a fake model in a thread, on a real port of 127.0.0.1, and can replace its replies."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from app.main import create_app
from app.settings import Settings
from tests.fakes import LONG_S, FakeSegmenter


@dataclass
class Trouble:
    """An ASGI application that wraps another. It sends `replies` first, and records the requests."""

    app: Any
    replies: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Method and path of every request except /readyz."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of the last request."""
    peers: set[tuple[str, int]] = field(default_factory=set)
    """The other ends of the connections."""
    most_at_once: int = 0
    _at_once: int = 0

    def until_idle(self) -> None:
        """Wait until no request is under way, as after a cut: the server notices that when it can."""
        end = time.monotonic() + LONG_S
        while self._at_once:
            assert time.monotonic() < end
            time.sleep(0.01)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] == "/readyz":
            await self.app(scope, receive, send)
            return
        self.asked.append(f"{scope['method']} {scope['path']}")
        self.peers.add(tuple(scope["client"]))
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if self.replies:
            status, headers, body = self.replies.pop(0)
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": status, "headers": raw})
            await send({"type": "http.response.body", "body": body})
            return
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        runs = True

        def ends() -> None:
            nonlocal runs
            self._at_once -= runs
            runs = False

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                ends()  # before the client can have it, and send the next request
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            ends()


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    segmenter: FakeSegmenter
    trouble: Trouble


@contextmanager
def real_server(settings: Settings | None = None) -> Iterator[Served]:
    """Run the service on a free port. It is ready when the block begins, and stopped after it."""
    segmenter = FakeSegmenter()
    trouble = Trouble(create_app(settings or Settings(workers=2), segmenter))
    server = uvicorn.Server(uvicorn.Config(trouble, log_config=None, ws="none", lifespan="on"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            end = time.monotonic() + LONG_S
            while not httpx.get(f"{url}/readyz", trust_env=False, timeout=LONG_S).is_success:
                assert time.monotonic() < end
                time.sleep(0.01)
            yield Served(url, segmenter, trouble)
        finally:
            segmenter.gate.set()
            server.should_exit = True
            thread.join()
