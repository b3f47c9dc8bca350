"""Runs our server as a separate process.

Does not know what is measured on it.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import httpx


class ServerFailed(Exception):
    """The server did not become ready. The message ends with its log."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A running server: its port and process."""

    port: int
    pid: int
    start_seconds: float
    """From the start of the process to the first 200 of /readyz."""

    def get(self, path: str) -> dict[str, object]:
        """Return the JSON of a GET."""
        reply = httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=60)
        reply.raise_for_status()
        return reply.json()

    def text(self, path: str) -> str:
        """Return the text of a GET."""
        reply = httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=60)
        reply.raise_for_status()
        return reply.text

    def embed(self, picture: bytes) -> str:
        """Embed an encoded picture. Return its image id."""
        reply = httpx.post(
            f"http://127.0.0.1:{self.port}/embed",
            content=picture,
            headers={"Content-Type": "application/octet-stream"},
            timeout=300,
        )
        reply.raise_for_status()
        return str(reply.json()["image_id"])


@contextmanager
def serve(
    settings: Mapping[str, str],
    *,
    log: Path,
    num_threads: int,
    patience_s: float = 300,
    module: Sequence[str] = ("app",),
) -> Iterator[RunningServer]:
    """Run `python -m app` with SAM2_* settings and `num_threads` threads of torch until the block ends.

    `module` is another module that starts the application, and its arguments.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SAM2_")}
    environment |= {f"SAM2_{name.upper()}": value for name, value in settings.items()}
    environment |= {"SAM2_PORT": str(port), "SAM2_DEADLINE_S": "300", "OMP_NUM_THREADS": str(num_threads)}
    started = monotonic()
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", *module], env=environment, stdout=file, stderr=file)
    try:
        while not _is_ready(port):
            if process.poll() is not None or monotonic() - started > patience_s:
                raise ServerFailed(f"the server is not ready; its log ends with:\n{log.read_text()[-2000:]}")
            sleep(0.1)
        yield RunningServer(port, process.pid, monotonic() - started)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False
