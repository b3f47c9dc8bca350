"""Connections are not shared between processes and event loops, and none is lost where a call is cancelled."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from client_server import Served

from sam2_client import AsyncClient, AsyncImage, Client
from tests.fakes import LONG_S, picture

CLIENT = Path(__file__).parent.parent
FORK = """
import os, sys
from sam2_client import Client
client = Client(sys.argv[1], timeout=20, retries=0)
client.model()
child = os.fork()
if child:  # later than the child, so that a shared connection would be in use twice, and not be dropped as stale
    assert os.waitpid(child, 0)[1] == 0
for _ in range(20):
    assert client.model().name == "fake"
if not child:
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_a_forked_process_has_connections_of_its_own(served: Served) -> None:
    served.trouble.peers.clear()
    done = subprocess.run(  # noqa: S603  # ourselves
        [sys.executable, "-c", FORK, served.url],
        env={**os.environ, "PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        timeout=LONG_S * 4,
    )
    assert done.returncode == 0, done.stderr
    # One for each process, and another where the child took longer than httpx keeps the parent's idle one.
    assert len(served.trouble.peers) >= 2


def test_a_closed_client_stays_closed_after_a_fork(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(served.url)
    client.close()
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="closed"):
        client.model()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_client_in_several_loops(served: Served) -> None:
    client = AsyncClient(served.url, retries=0)
    served.trouble.peers.clear()
    for _ in range(3):
        assert asyncio.run(client.model()).name == "fake"
    assert len(served.trouble.peers) == 3
    asyncio.run(client.close())
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(client.model())
    gc.collect()  # asyncio warns of connections whose loop ended before they were closed


class Cancelling(httpx.AsyncHTTPTransport):
    """Cancels a task at one of the steps that httpx reports of its requests."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []
        self.at = -1
        self.task: asyncio.Task[Any] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async def step(name: str, _: object) -> None:
            self.steps.append(name)
            if len(self.steps) == self.at and self.task is not None:
                self.task.cancel()

        request.extensions["trace"] = step
        return await super().handle_async_request(request)

    @property
    def busy(self) -> list[str]:
        """The connections that count as busy."""
        return [repr(each) for each in self._pool.connections if not each.is_idle()]


async def _click(client: AsyncClient, image: AsyncImage) -> None:
    await image.decode([(30, 20)])


async def _follow(client: AsyncClient, image: AsyncImage) -> None:
    async with await client.track([image, image]) as track:
        await track.click([(30, 20)], frame=0)
        async with aclosing(track.propagate()) as frames:
            async for _ in frames:
                pass


@pytest.mark.parametrize("call", [_click, _follow])
def test_no_connection_is_lost_wherever_a_call_is_cancelled(
    served: Served, call: Callable[[AsyncClient, AsyncImage], Awaitable[None]]
) -> None:
    async def cancelled_everywhere() -> None:
        transport = Cancelling()
        async with AsyncClient(served.url, transport=transport) as client:
            image = await client.embed(picture(60, 40))
            ended = False
            while not ended:
                transport.at += 1
                transport.steps.clear()
                transport.task = asyncio.ensure_future(call(client, image))
                (outcome,) = await asyncio.gather(transport.task, return_exceptions=True)
                transport.task = None
                ended = transport.at > len(transport.steps)
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)
                assert transport.busy == [], f"cancelled at {transport.steps[-1]}"
            assert "http11.response_closed.started" in transport.steps
            await client.model()

    asyncio.run(cancelled_everywhere())
