"""Runs a server as a separate process, and reads the system's figures of it.

Does not know what is sent to it.
"""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.server import ROOT, environment, free_port

_START_S = 300

REAL_MODEL = ("app",)
"""`python -m app`, with untrained weights unless a setting changes that."""


def known_answers(*, encode_ms: float = 0, decode_ms: float = 0) -> tuple[str, ...]:
    """Return the arguments for the server of known_answers.py."""
    return ("tests.soak.known_answers", str(encode_ms), str(decode_ms))


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. Memory, descriptors and threads are Linux's figures."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        return f"http://127.0.0.1:{self.port}"

    def memory_mib(self) -> float:
        """Return the resident memory."""
        return self._status("VmRSS") / 1024

    def peak_memory_mib(self) -> float:
        """Return the largest resident memory since the start or forget_peak_memory."""
        return self._status("VmHWM") / 1024

    def forget_peak_memory(self) -> None:
        """Let the peak of the resident memory begin at its present value."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def threads(self) -> int:
        """Return the number of threads."""
        return self._status("Threads")

    def descriptors(self) -> int:
        """Return the number of open files and connections."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def kill(self) -> None:
        """Kill the process, as `kill -9` does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait_until_ready(self) -> None:
        """Raises RuntimeError with the server's log if it does not become ready."""
        end = time.monotonic() + _START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"The server is not ready:\n{self.log.read_text()[-2000:]}")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


@contextmanager
def serving(
    module: tuple[str, ...], folder: Path, *, most_files: int | None = None, **settings: str
) -> Iterator[Server]:
    """Run a server until the block ends. It is ready when the block begins, and logs to server.log in `folder`.

    `most_files` is the limit of open files that the system sets for it. The log is appended to.
    """
    port = free_port()
    variables = environment(
        **{"checkpoint": "untrained", "log_level": "warning", "port": str(port)} | settings
    )

    def limit_files() -> None:
        if most_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))

    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=ROOT,
            env=variables,
            stderr=output,
            preexec_fn=limit_files,  # safe: no threads run here yet
        )
    server = Server(process, port, log)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
