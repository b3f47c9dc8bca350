"""A server with fake devices on a real Ray, as a test starts it, and what it tells. Needs the extra `cluster`."""

import re
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

START_S = 400.0
"""Longest time of a start, on a machine that does much else."""
CLICK = {"point_coords": [[30, 20]], "point_labels": [1]}


@dataclass
class Cluster:
    """A running command."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    url: str = ""

    def client(self) -> httpx.Client:
        """Return a client with its own connections."""
        return httpx.Client(base_url=self.url, trust_env=False, timeout=30)

    def encodes(self) -> int:
        """Return how many pictures were encoded so far."""
        return (self.folder / "encodes").read_text().count("\n")

    def replicas(self) -> set[int]:
        """Return the process ids of the devices."""
        return {pid for pid, name in descendants(self.process.pid).items() if "ServeReplica" in name}

    def log(self) -> str:
        """Return what the command has said."""
        return (self.folder / "log").read_text()


def descendants(pid: int) -> dict[int, str]:
    """Return the processes below one, by id, with their command lines."""
    found: dict[int, str] = {}
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                with suppress(OSError):
                    found[child] = Path(f"/proc/{child}/cmdline").read_text()
                    found |= descendants(child)
    return found


def wait_until(holds: Callable[[], bool], seconds: float = START_S) -> None:
    """Wait for something; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def listed(client: httpx.Client) -> int:
    """Return how many devices answer."""
    return len(client.get("/cluster").json()["devices"])


def hits(client: httpx.Client, tier: str) -> int:
    """Return how many embeddings all devices have found in a tier."""
    text = client.get("/metrics").text
    return sum(
        int(float(n)) for n in re.findall(rf'sam2_cache_hits_total{{device="\w+",tier="{tier}"}} (\S+)', text)
    )
