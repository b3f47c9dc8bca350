"""A server with simulated devices, on a real Ray or alone, for cluster_section.py. Ends all that it started.

Does not know what is measured.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import monotonic, sleep

from tests.bench import processes
from tests.bench.load import Load, Measured, Stream, as_sent, run
from tests.bench.server import RunningServer, serve
from tests.bench.simulated_devices import ENGINE, REPLICAS
from tests.bench.traffic import tiny_bitmap

PICTURES = 240
DEADLINE_S = 20
"""Of a request, and for the end of a device."""
_START_S = 150.0
_MODULE = "tests.bench.simulated_devices"


class OutOfTime(Exception):
    """Something did not happen until the section had to end."""


@dataclass(frozen=True)
class Simulated:
    """A running server and its folder. Waits until `until` of the monotonic clock at most."""

    running: RunningServer
    folder: Path
    until: float

    @cached_property
    def bodies(self) -> list[bytes]:
        """A click on each picture. The pictures are uploaded when this is first asked for."""
        ids = [self.running.embed(tiny_bitmap(i)) for i in range(PICTURES)]
        return [
            json.dumps({"image_id": name, "point_coords": [[0.5, 0.5]], "point_labels": [1]}).encode()
            for name in ids
        ]

    @property
    def requests(self) -> list[bytes]:
        """The clicks as they are sent."""
        return [as_sent(_stream(body), body) for body in self.bodies]

    def click(self, *, clients: int, seconds: float) -> Measured:
        """Click on all pictures in turn; each client begins with another one."""
        bodies = self.bodies
        firsts = [len(bodies) * i // clients for i in range(clients)]
        streams = tuple(_stream(*bodies[first:], *bodies[:first]) for first in firsts)
        return run(Load(self.running.port, seconds, streams))["click"]

    def encodes(self) -> int:
        """Return how many pictures were encoded so far."""
        return (self.folder / "encodes").read_text().count("\n")

    def asked_again(self) -> int:
        """Return how many calls the Front has asked again."""
        found = re.search(r"^sam2_asked_again_total (\S+)", self.running.text("/metrics"), re.MULTILINE)
        return int(float(found[1])) if found else 0

    def devices(self) -> set[int]:
        """Return the processes of the devices that are ready."""
        found = self.running.get("/cluster")["devices"]
        assert isinstance(found, list)
        return {device["pid"] for device in found if device["ready"]}

    def scale(self, count: int, *, without: frozenset[int] = frozenset()) -> float:
        """Have so many devices, and wait until there are, not counting those of `without`. Return the seconds."""
        started = monotonic()
        (self.folder / REPLICAS).write_text(str(count))
        while len(found := self.devices() - without) != count:
            if monotonic() > self.until:
                raise OutOfTime(f"there are {len(found)} devices, not {count}")
            sleep(0.1)
        return monotonic() - started

    @contextmanager
    def batches_take(self, seconds: float) -> Iterator[None]:
        """Let every batch of every device take so long."""
        slow = self.folder / "slow"
        slow.write_text(str(seconds))
        try:
            yield
        finally:
            slow.unlink()

    @contextmanager
    def second_front(self) -> Iterator[RunningServer]:
        """Run another Front of the same devices."""
        with _serving(self.folder, "second-log", self.until, "--join") as running:
            yield running


@contextmanager
def simulated(folder: Path, devices: int, *, until: float) -> Iterator[Simulated]:
    """Run a server with so many simulated devices; 0: one in its own process, without Ray."""
    folder.mkdir()
    (folder / "encodes").touch()
    chosen = ["--devices", f"cpu:{devices}"] if devices else []
    try:
        # A batch takes as long for one prompt as for many, so there is one in each.
        with _serving(folder, "log", until, "--batch-prompts", "1", *chosen) as running:
            yield Simulated(running, folder, until)
    finally:
        with suppress(FileNotFoundError):  # what a Front leaves that had to be killed
            shutil.rmtree(json.loads((folder / ENGINE).read_text())["folder"], ignore_errors=True)


@contextmanager
def _serving(folder: Path, log: str, until: float, *options: str) -> Iterator[RunningServer]:
    patience_s = max(0.0, min(_START_S, until - monotonic()))
    module = (_MODULE, str(folder), *options, "--log-level", "warning", "--deadline-s", str(DEADLINE_S))
    descendants: Sequence[processes.Process] = ()
    try:
        with serve({}, log=folder / log, num_threads=1, patience_s=patience_s, module=module) as running:
            try:
                yield running
            finally:
                descendants = processes.below(running.pid)
    finally:
        processes.end(descendants)


def _stream(*bodies: bytes) -> Stream:
    return Stream("click", "/decode", "application/json", bodies)
