"""Section cluster: a Front and simulated devices on a real Ray, against the same server alone.

    python -m tests.bench.cluster_section [--quick]

measures it alone, without the peers of the other sections. A simulated device only sleeps, so that two cores do not
hide how many there are. Each row is told as soon as it is known; a part that fails costs its own rows only.
Does not know the model.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import NamedTuple, Protocol

from tests.bench import machine, processes, report
from tests.bench.report import CLUSTER_CLICKS, CLUSTER_FAULT, CLUSTER_LOAD, Row
from tests.bench.simulated_cluster import OutOfTime, Simulated, simulated
from tests.bench.timing import percentile
from tests.bench.unbroken import Clicking

CLICK_S, CLIENTS = 0.1, 5
"""For each device. Each client waits for its answer before it clicks again. CLUSTER_CLICKS says both."""
LOAD_CLIENTS, LOAD_CLICK_S, LOAD_PAUSE_S = 8, 0.02, 0.05
"""CLUSTER_LOAD says it. The pauses leave the cores to what is started and ended meanwhile."""
_LIMIT_S, _QUICK_LIMIT_S = 400.0, 95.0
"""Nothing is begun or waited for after that. What runs then and the end of the servers take up to a minute."""


class Bench(Protocol):
    """What the section needs of the Workbench."""

    @property
    def quick(self) -> bool:
        """Whether to be done in two minutes."""

    @property
    def folder(self) -> Path:
        """Where files may lie until the end."""


class Alone(NamedTuple):
    """A Bench without peers."""

    quick: bool
    folder: Path


Part = Callable[[], Iterable[Row]]


def cluster(bench: Bench) -> list[Row]:
    """Measure the way, memory, kills, scaling at run time, and the throughput."""
    until = monotonic() + (_QUICK_LIMIT_S if bench.quick else _LIMIT_S)
    with ExitStack() as stack:
        front = _Started(stack, bench.folder / "front", 2, until)
        direct = _Started(stack, bench.folder / "direct", 0, until)
        seconds = 3.0 if bench.quick else 20.0
        parts: dict[str, Part] = {
            "way": lambda: _way(direct(), front(), rounds=4 if bench.quick else 20),
            "memory": lambda: _memory(front()),
            "kill -9 of a Device": lambda: _kill_device(front()),
            "kill -9 of a Front": lambda: _kill_front(front()),
            "2 -> 4 Devices": lambda: _scale(front(), 2, 4, seconds),
            "4 devices": lambda: _throughput(front(), 4, seconds),
            "4 -> 2 Devices": lambda: _scale(front(), 4, 2, seconds),
            "2 devices": lambda: _throughput(front(), 2, seconds),
            "1 device": lambda: _throughput(front(), 1, seconds),
            "8 devices": lambda: _throughput(front(), 8, seconds),
        }
        if bench.quick:
            del parts["2 devices"], parts["1 device"], parts["8 devices"]
        return collect(parts, until=until, tell=sys.stderr.write)


def collect(parts: Mapping[str, Part], *, until: float, tell: Callable[[str], object]) -> list[Row]:
    """Return the rows of all parts, and one for each part that fails or that there is no time for."""
    rows: list[Row] = []
    for name, part in parts.items():
        failed = ""
        try:
            if monotonic() > until:
                raise OutOfTime("the section had to end")
            for row in part():
                rows.append(row)
                values = ", ".join(f"{value} {number:.4g}" for value, number in row.values.items())
                tell(f"cluster: {row.case}, {row.side}: {values}\n")
        except Exception as error:  # whatever it is, the other parts are measured
            failed = f"{type(error).__name__}: {error}"
            tell(f"cluster: {name} failed: {failed}\n")
        if failed:
            rows.append(_row(CLUSTER_FAULT, name, failed=1))
    return rows


class _Started:
    """A server that is started when it is first asked for, and again if it has ended."""

    def __init__(self, stack: ExitStack, folder: Path, devices: int, until: float) -> None:
        self._stack, self._folder, self._devices, self._until = stack, folder, devices, until
        self._server: Simulated | None = None
        self._starts = 0

    def __call__(self) -> Simulated:
        if self._server is None or not Path(f"/proc/{self._server.running.pid}/smaps_rollup").exists():
            self._starts += 1
            folder = self._folder.with_name(f"{self._folder.name}-{self._starts}")
            self._server = self._stack.enter_context(simulated(folder, self._devices, until=self._until))
        return self._server


def _way(direct: Simulated, front: Simulated, *, rounds: int) -> Iterator[Row]:
    """One client, in turns: the server alone, and a Front with two devices."""
    found: dict[str, list[list[float]]] = {}
    sides = {"the server alone": direct, "Front and Device": front}
    for server in sides.values():
        server.click(clients=1, seconds=1.0)  # the first clicks are slower
    before = {name: processes.cpu_s(server.running.pid) for name, server in sides.items()}
    for i in range(rounds):
        for name, server in list(sides.items())[:: 1 if i % 2 else -1]:
            found.setdefault(name, []).append(server.click(clients=1, seconds=1.0).latencies)
    for name, server in sides.items():
        latencies = [each for of_round in found[name] for each in of_round]
        used_s = processes.cpu_s(server.running.pid) - before[name]
        values = {"n": len(latencies), "cpu_ms": 1000 * used_s / len(latencies)}
        yield _row("a click, one client", name, **values, **_spread(latencies))
    more = {
        f"p{percent}_ms": 1000
        * median(
            percentile(there, percent) - percentile(here, percent)
            for here, there in zip(found["the server alone"], found["Front and Device"], strict=True)
        )
        for percent in (50, 99)
    }
    yield _row("a click, one client", "over the server alone", **more)


def _memory(front: Simulated) -> Iterator[Row]:
    devices = front.devices()
    below = [each.pid for each in processes.below(front.running.pid) if each.pid not in devices]
    yield _row("memory, PSS", "Ray", MiB=sum(map(processes.pss_mib, below)))
    yield _row("memory, PSS", "Front", MiB=processes.pss_mib(front.running.pid))
    yield _row("memory, PSS", "a simulated Device", MiB=median(map(processes.pss_mib, devices)))
    yield _row("start to ready", "Ray, a Front and two Devices", s=front.running.start_seconds)


def _kill_device(front: Simulated) -> Iterator[Row]:
    """One of two devices dies by kill -9; clicks go on until there is another one."""
    front.scale(2)
    killed = min(front.devices())
    with _under_load(front) as values:
        os.kill(killed, signal.SIGKILL)
        values["s"] = front.scale(2, without=frozenset({killed}))
        sleep(1.0)
    yield _row(CLUSTER_LOAD, "kill -9 of a Device", **values)


def _kill_front(front: Simulated) -> Iterator[Row]:
    """One of two Fronts dies by kill -9; its clients ask the other one."""
    with front.second_front() as second, _under_load(front, second.port) as values:
        os.kill(second.pid, signal.SIGKILL)
        sleep(3.0)
    yield _row(CLUSTER_LOAD, "kill -9 of a Front", **values)


def _scale(front: Simulated, before: int, after: int, seconds: float) -> Iterator[Row]:
    """More devices, or fewer, at run time."""
    front.scale(before)
    with _under_load(front) as values:
        values["s"] = front.scale(after)
        sleep(seconds)
    yield _row(CLUSTER_LOAD, f"{before} -> {after} Devices", **values)


def _throughput(front: Simulated, count: int, seconds: float) -> Iterator[Row]:
    """Clients that wait for their answers, on as many pictures for any number of devices."""
    front.scale(count)
    front.click(clients=CLIENTS * count, seconds=2.0)  # so that each device has its pictures
    with front.batches_take(CLICK_S):
        front.click(clients=CLIENTS * count, seconds=1.0)
        found = front.click(clients=CLIENTS * count, seconds=seconds)
    values = {"per_s": found.per_second, "of_linear": found.per_second * CLICK_S / count}
    yield _row(CLUSTER_CLICKS, _devices(count), **values, **_spread(found.latencies))


@contextmanager
def _under_load(front: Simulated, *other_ports: int) -> Iterator[dict[str, float]]:
    """Click while the block runs. Yield values, to which the outcome is added."""
    values: dict[str, float] = {}
    requests = front.requests
    encodes, again = front.encodes(), front.asked_again()
    clicking = Clicking(
        [front.running.port, *other_ports], requests, clients=LOAD_CLIENTS, pause_s=LOAD_PAUSE_S
    )
    with front.batches_take(LOAD_CLICK_S), clicking:
        yield values
    if clicking.failures:
        sys.stderr.write(f"cluster: the first error: {clicking.failures[0]}\n")
    values |= {
        "clicks": len(clicking.latencies),
        "errors": len(clicking.failures),
        "worst_ms": 1000 * max(clicking.latencies),
        "lost": clicking.lost,
        "asked_again": front.asked_again() - again,
        "encoded_again": front.encodes() - encodes,
    }


def _spread(latencies: list[float]) -> dict[str, float]:
    return {f"p{percent}_ms": 1000 * percentile(latencies, percent) for percent in (50, 99)}


def _devices(count: int) -> str:
    return f"{count} device{'s' if count > 1 else ''}"


def _row(case: str, side: str, **values: float) -> Row:
    return Row("cluster", case, side, values)


def main() -> None:
    """Measure and print this section alone."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cluster_section", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and numbers of devices")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    head = machine.describe()
    with TemporaryDirectory(prefix="sam2-bench-") as folder:
        rows = cluster(Alone(options.quick, Path(folder)))
    head["load average at the end"] = machine.load_average()
    print(report.markdown(rows, machine=head))


if __name__ == "__main__":
    main()
