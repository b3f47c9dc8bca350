"""A server as users run it: `python -m app` in its own process, on a free port of 127.0.0.1.

It uses untrained weights, so that no file is needed. For tests that need a real server, and for timings over HTTP.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
_START_S = 120


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of this process, with these settings instead of its own SAM2_* variables."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SAM2_")}
    return outside | {f"SAM2_{name.upper()}": value for name, value in settings.items()}


@contextmanager
def running_server(folder: Path, *, python: str = sys.executable, **settings: str) -> Iterator[str]:
    """Yield the address of a ready server. It logs to server.log in `folder`; a failed start shows that log."""
    port = free_port()
    log = folder / "server.log"
    variables = environment(
        **{"checkpoint": "untrained", "log_level": "warning", "port": str(port)} | settings
    )
    with log.open("wb") as output:
        process = subprocess.Popen([python, "-m", "app"], cwd=ROOT, env=variables, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    state = f"ended with {process.returncode}" if process.poll() is not None else f"not ready in {_START_S} s"
    raise RuntimeError(f"The server {state}:\n{log.read_text()}")
