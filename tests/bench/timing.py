"""Times several sides in turn, so that all of them run under the same conditions.

Does not know what it times. A round times every side once. Each round begins with another side. Garbage is
collected only before the first round.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep

SETTLE_S = 0.05
"""Pause before each timed call: threads of the previous side may spin for a while after their work."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to time one case: rounds until `seconds` have passed, at least `least` and at most `most` rounds."""

    seconds: float
    least: int = 3
    most: int = 1000
    warm_up: int = 1
    """Rounds before those that count; 0 if everything is warm already."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics of one side's times, in milliseconds."""

    n: int
    median_ms: float
    p95_ms: float


def percentile(seconds: list[float], percent: float) -> float:
    """Return the value that `percent` (0..100) of the values do not exceed, by nearest rank."""
    if not seconds:
        raise ValueError("no values: there is no percentile")
    ordered = sorted(seconds)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(0, int(rank) - 1)]


def summarise(seconds: list[float]) -> Summary:
    """Return median and 95th percentile, in ms, of times in seconds."""
    return Summary(len(seconds), 1000 * median(seconds), 1000 * percentile(seconds, 95))


def take_turns(
    sides: Mapping[str, Callable[[], object]],
    effort: Effort,
    *,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of every call of every side, round by round; with process_time those of the CPU."""
    for _ in range(effort.warm_up):
        for call in sides.values():
            call()
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with _no_garbage_collection():
        started = perf_counter()
        rounds = 0
        while rounds < effort.least or (perf_counter() - started < effort.seconds and rounds < effort.most):
            first = rounds % len(names)
            for name in names[first:] + names[:first]:
                sleep(SETTLE_S if len(names) > 1 else 0)
                began = clock()
                sides[name]()
                seconds[name].append(clock() - began)
            rounds += 1
    return seconds


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
