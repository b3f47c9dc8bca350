"""Event simulation of many Devices: clicks arrive, the ring that serves finds their Device, batches run.

    python -m tests.bench.simulation [--devices 8 100] [--front-ms 1.4]

The costs are those of the device, the folder and the Front; the ring and its bound are the service's own. Each
figure is of one run with a fixed seed. Does not know HTTP or the engine.
"""

import argparse
import heapq
import math
import random
from bisect import bisect
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate, product
from typing import NamedTuple

from app.cluster.ring import ALWAYS_TAKEN_ON_CPU, ALWAYS_TAKEN_ON_GPU, CANDIDATES, Ring, within_bounds
from tests.bench.timing import percentile

MOST_IN_A_BATCH = 32
TAIL = 1.5
"""Exponent of the Pareto distribution of clicks over pictures: few pictures get many."""
PICTURES = 1000
"""For each Device."""
HOT = 0.05
BUSY = 0.7
"""Of a Front's core. A click that waits for a busier one waits long."""


@dataclass(frozen=True)
class Kind:
    """A kind of device. Costs in milliseconds."""

    name: str
    batch: float
    """Of a batch, whatever is in it."""
    click: float
    """Of each click in a batch."""
    per_s: float
    """Clicks that arrive, a second and device."""
    seconds: float
    """How long they do."""
    always_taken: int
    load: float = 10.0
    """Of a picture that must be loaded from the folder first, beside the batches: 8 MiB from the page cache."""


GPU = Kind("GPU", batch=4, click=0.25, per_s=300, seconds=2, always_taken=ALWAYS_TAKEN_ON_GPU)
"""Assumed: no GPU has been measured yet."""
CPU = Kind("CPU", batch=5, click=11, per_s=50, seconds=8, always_taken=ALWAYS_TAKEN_ON_CPU)
"""docs/performance.md: 16 ms for a click, 182 ms for 16."""
FRONT_MS = 1.4
"""CPU time of a Front for a click: docs/scaling.md."""


@dataclass(frozen=True)
class Case:
    """What is simulated."""

    kind: Kind
    devices: int
    bounded: bool = True
    hot: float = 0.0
    """Share of all clicks that one picture gets."""
    joins: bool = False
    """Whether one Device more comes at half time."""
    leaves: bool = False
    """Whether one Device goes at half time. What it had under way is asked again."""
    seed: int = 1

    @property
    def half_ms(self) -> float:
        """Half time."""
        return 500 * self.kind.seconds


@dataclass(slots=True)
class Found:
    """What came out of a case."""

    waits: list[tuple[float, float]] = field(default_factory=list)
    """Milliseconds at which a click arrived, and until it was answered."""
    clicks: int = 0
    elsewhere: int = 0
    """Clicks that another Device than the owner of their picture got."""
    loads: int = 0
    """Clicks that had to load their picture."""
    busiest_over_mean: float = 0.0
    """Clicks of the busiest Device over the mean."""

    def percentile(self, percent: float, *, since: float = 0.0) -> float:
        """Return milliseconds that so many per cent of the clicks that arrived from a time on did not exceed."""
        return percentile([wait for at, wait in self.waits if at >= since], percent)


class Click(NamedTuple):
    """A click on a picture."""

    arrived: float
    picture: int


class Event(NamedTuple):
    """What happens at a Device: a click has its picture now or, without one, a batch has ended."""

    at: float
    number: int
    """Orders events of one moment."""
    device: str
    click: Click | None


@dataclass(slots=True)
class Device:
    """One Device: what it has in memory, what waits, what runs."""

    pictures: set[int]
    waiting: deque[Click] = field(default_factory=deque)
    running: list[Click] = field(default_factory=list)
    under_way: int = 0
    clicks: int = 0


def simulate(case: Case) -> Found:
    """Run a case from its first click to its last answer."""
    return _Run(case).found()


def moved(devices: int, *, keys: int = 20_000) -> tuple[float, float, float]:
    """Return the shares of keys that move when a Device comes or goes, and those of the busiest over the mean."""
    ring = Ring(_names(devices))
    owners = [ring.ranked(_key(i), 1)[0] for i in range(keys)]
    more = Ring(_names(devices + 1), before=ring)
    fewer = Ring(_names(devices)[1:], before=ring)
    come, gone = (
        sum(other.ranked(_key(i), 1)[0] != owner for i, owner in enumerate(owners)) / keys
        for other in (more, fewer)
    )
    return come, gone, max(Counter(owners).values()) * devices / keys


def fronts(clicks_per_s: float, front_ms: float) -> int:
    """Return how many cores of Fronts so many clicks need."""
    return math.ceil(clicks_per_s * front_ms / 1000 / BUSY)


class _Run:
    """The state of one run."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._random = random.Random(case.seed)  # noqa: S311  # nothing secret
        self._ring = Ring(_names(case.devices))
        self._ranked = cache(self._ring.ranked)
        pictures = range(PICTURES * case.devices)
        self._weights = list(accumulate(self._random.paretovariate(TAIL) for _ in pictures))
        self._devices = {name: Device(set()) for name in self._ring.names}
        for picture in pictures:
            self._devices[self._ranked(_key(picture), CANDIDATES)[0]].pictures.add(picture)
        self._events: list[Event] = []
        self._count = 0
        self._total = 0
        self._found = Found()

    def found(self) -> Found:
        half = self._case.half_ms
        for arrived, picture in self._arrivals():
            if self._case.joins or self._case.leaves:
                self._run_until(min(arrived, half))
                if arrived >= half and len(self._devices) == self._case.devices:
                    self._change(half)
            self._run_until(arrived)
            self._send(arrived, Click(arrived, picture))
        self._run_until(math.inf)
        served = [device.clicks for device in self._devices.values()]
        self._found.busiest_over_mean = max(served) * len(served) / sum(served)
        return self._found

    def _arrivals(self) -> Iterator[tuple[float, int]]:
        case, now = self._case, 0.0
        while True:
            now += 1000 * self._random.expovariate(case.devices * case.kind.per_s)
            if now >= 2 * case.half_ms:
                return
            is_hot = self._random.random() < case.hot
            yield now, 0 if is_hot else bisect(self._weights, self._random.random() * self._weights[-1])

    def _change(self, now: float) -> None:
        names = _names(self._case.devices + 1) if self._case.joins else _names(self._case.devices)[1:]
        gone = self._devices.keys() - set(names)
        lost = [
            click for name in gone for click in (*self._devices[name].running, *self._devices[name].waiting)
        ]
        lost += [event.click for event in self._events if event.device in gone and event.click is not None]
        self._ring = Ring(names, before=self._ring)
        self._ranked = cache(self._ring.ranked)
        self._devices = {name: self._devices.get(name) or Device(set()) for name in names}
        self._events = [event for event in self._events if event.device not in gone]
        heapq.heapify(self._events)
        self._total = sum(device.under_way for device in self._devices.values())
        for click in lost:
            self._send(now, click)

    def _send(self, now: float, click: Click) -> None:
        ranked: Sequence[str] = self._ranked(_key(click.picture), CANDIDATES)
        chosen = ranked[0]
        if self._case.bounded:
            chosen = within_bounds(
                ranked,
                lambda name: self._devices[name].under_way,
                total=self._total,
                devices=len(self._devices),
                always_taken=self._case.kind.always_taken,
            )[0]
        device = self._devices[chosen]
        device.under_way += 1
        device.clicks += 1
        self._total += 1
        self._found.clicks += 1
        self._found.elsewhere += chosen != ranked[0]
        if click.picture in device.pictures:
            self._queue(now, chosen, click)
        else:
            self._found.loads += 1
            self._at(now + self._case.kind.load, chosen, click)

    def _queue(self, now: float, name: str, click: Click) -> None:
        device = self._devices[name]
        device.pictures.add(click.picture)
        device.waiting.append(click)
        if not device.running:
            self._begin(now, name)

    def _begin(self, now: float, name: str) -> None:
        device, kind = self._devices[name], self._case.kind
        device.running = [device.waiting.popleft() for _ in range(min(MOST_IN_A_BATCH, len(device.waiting)))]
        if device.running:
            self._at(now + kind.batch + kind.click * len(device.running), name, None)

    def _at(self, when: float, name: str, click: Click | None) -> None:
        self._count += 1
        heapq.heappush(self._events, Event(when, self._count, name, click))

    def _run_until(self, until: float) -> None:
        while self._events and self._events[0].at <= until:
            now, _, name, click = heapq.heappop(self._events)
            if click is not None:
                self._queue(now, name, click)
                continue
            device = self._devices[name]
            for arrived, _ in device.running:
                self._found.waits.append((arrived, now - arrived))
            device.under_way -= len(device.running)
            self._total -= len(device.running)
            self._begin(now, name)


def _names(count: int) -> list[str]:
    return [f"device-{i}" for i in range(count)]


def _key(picture: int) -> str:
    return f"tenant/{picture}"


def tables(counts: Sequence[int], front_ms: float) -> str:
    """Return what comes out for each number of Devices, as Markdown."""
    lines = [
        "| devices | clicks | ring | p50 ms | p99 ms | off the owner | busiest / mean | p99, one comes | goes |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, devices, hot in product((GPU, CPU), counts, (0.0, HOT)):
        for bounded in (False, True):
            case = Case(kind, devices, bounded=bounded, hot=hot)
            still = simulate(case)
            after = [
                simulate(each).percentile(99, since=case.half_ms)
                for each in (replace(case, joins=True), replace(case, leaves=True))
            ]
            lines.append(
                f"| {devices} {kind.name}s | {f'{100 * hot:.0f} % on one picture' if hot else 'heavy-tailed'} | "
                f"{'bounded' if bounded else 'plain'} | {still.percentile(50):.1f} | {still.percentile(99):.1f} | "
                f"{100 * still.elsewhere / still.clicks:.1f} % | {still.busiest_over_mean:.2f} | "
                f"{after[0]:.1f} | {after[1]:.1f} |"
            )
    lines += [
        "",
        "| devices | pictures moved when one comes | goes | pictures, busiest / mean | Front cores, GPUs | CPUs |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for devices in counts:
        come, gone, busiest = moved(devices)
        cores = [fronts(devices * kind.per_s, front_ms) for kind in (GPU, CPU)]
        lines.append(
            f"| {devices} | {100 * come:.1f} % | {100 * gone:.1f} % | {busiest:.2f} | {cores[0]} | {cores[1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.simulation", description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 100])
    parser.add_argument("--front-ms", type=float, default=FRONT_MS, help="CPU time of a Front for a click")
    options = parser.parse_args()
    print(tables(options.devices, options.front_ms))


if __name__ == "__main__":
    main()
