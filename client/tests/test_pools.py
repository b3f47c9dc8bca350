"""Connections are not shared between processes and event loops."""

import asyncio
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from client_server import Served

from sam2_client import AsyncClient, Client
from tests.fakes import LONG_S

CLIENT = Path(__file__).parent.parent
FORK = """
import os, sys
from sam2_client import Client
client = Client(sys.argv[1], timeout=20, retries=0)
client.model()
child = os.fork()
for _ in range(20):
    assert client.model().name == "fake"
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
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
    assert len(served.trouble.peers) == 2, "one for each process"


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
