"""A server in its own process, with the fake segmenter. Its device is blocked while a file exists."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.fakes import LONG_S
from tests.server import ROOT, environment


def ready(url: str) -> bool:
    """Wait until the server has its model."""
    for _ in range(2000):
        response = httpx.get(f"{url}/readyz", trust_env=False, timeout=LONG_S)
        if response.is_success:
            return True
        time.sleep(0.01)
    raise TimeoutError(response.text)


_SERVER = """
import sys, time, pathlib
import app.main, app.__main__
from tests.fakes import FakeSegmenter
hold = pathlib.Path(sys.argv[1])
def wait():
    hold.with_name("entered").touch()
    while hold.exists():
        time.sleep(0.005)
app.main.load_segmenter = lambda settings: FakeSegmenter(hold=wait)
sys.exit(app.__main__.main(["--checkpoint", "untrained", "--port", "0", "--max-upload-mib", "1", *sys.argv[2:]]))
"""


@dataclass
class RealServer:
    """A server process, and the file that blocks its device."""

    process: "subprocess.Popen[bytes]"
    url: str
    hold: Path
    log: Path

    def client(self) -> httpx.Client:
        """Return a client with its own connections."""
        return httpx.Client(base_url=self.url, trust_env=False, timeout=LONG_S)

    def wait_until_entered(self) -> None:
        """Wait until a batch has started to run since `block`."""
        self.wait_until(self.hold.with_name("entered").exists)

    def block(self) -> None:
        """Block the next batch and all after it."""
        self.hold.with_name("entered").unlink(missing_ok=True)
        self.hold.touch()

    def waiting(self, queue: str) -> int:
        """Return the number of waiting prompts or images, from /metrics."""
        with self.client() as client:
            found = re.search(rf"^sam2_waiting_{queue} (\S+)", client.get("/metrics").text, re.MULTILINE)
        assert found
        return int(float(found[1]))

    @staticmethod
    def wait_until(holds: Callable[[], bool]) -> None:
        """Wait until a condition holds. On a crowded machine, a process needs a minute to import what it needs."""
        end = time.monotonic() + 3 * LONG_S
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.01)

    def memory_mib(self) -> float:
        """Return the process's peak memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


@contextmanager
def real_server(folder: Path, *arguments: str) -> Iterator[RealServer]:
    """Yield a server that is ready."""
    hold, log = folder / "hold", folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(hold), *arguments], cwd=ROOT, env=environment(), stderr=output
        )
    try:
        RealServer.wait_until(lambda: b"Listening on" in log.read_bytes() or process.poll() is not None)
        found = re.search(r"Listening on (http://\S+);", log.read_text())
        assert found, log.read_text()
        assert ready(found[1])
        yield RealServer(process, found[1], hold, log)
    finally:
        hold.unlink(missing_ok=True)
        process.kill()
        process.wait()


CLICK = {"image_id": "truck", "point_coords": [[1, 1]], "point_labels": [1]}


def embed(client: httpx.Client, data: bytes, name: str) -> httpx.Response:
    """POST a picture as a raw body."""
    return client.post(
        "/embed", params={"image_id": name}, content=data, headers={"Content-Type": "image/png"}
    )
