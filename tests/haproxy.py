"""HAProxy with deploy/haproxy/haproxy.cfg before servers that a test starts. Needs Debian's haproxy."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes import LONG_S
from tests.server import ROOT, free_port

CONFIG = ROOT / "deploy/haproxy/haproxy.cfg"
CLICK = {"point_coords": [[30, 20]], "point_labels": [1]}


def program() -> str:
    """Return HAProxy's path. Skips a test without it; where CI has installed its tools, fails it."""
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None and os.environ.get("CI_TOOLS") == "required":
        pytest.fail("haproxy is not installed: apt-get install haproxy")
    if found is None:
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    return found


@contextmanager
def balanced(folder: Path, ports: list[int]) -> Iterator[str]:
    """Yield the address of HAProxy before servers on these ports."""
    haproxy, own = program(), free_port()
    text = CONFIG.read_text().replace("bind :8000", f"bind 127.0.0.1:{own}")
    for number, port in enumerate(ports):
        text = text.replace(f"sam2-{number}:8000", f"127.0.0.1:{port}")
    (folder / "haproxy.cfg").write_text(text)
    with (folder / "haproxy.log").open("wb") as output:
        process = subprocess.Popen(
            [haproxy, "-db", "-f", str(folder / "haproxy.cfg")], stdout=output, stderr=output
        )
    try:
        wait_until(lambda: answers(own) or process.poll() is not None)
        assert process.poll() is None, (folder / "haproxy.log").read_text()
        yield f"http://127.0.0.1:{own}"
    finally:
        process.terminate()
        process.wait(LONG_S)


def answers(port: int) -> bool:
    """Whether something listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for something; fail after minutes."""
    end = time.monotonic() + 3 * LONG_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
