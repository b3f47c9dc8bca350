"""How long each stage of one request took, and when: for Server-Timing, the log, the figures and the traces.

Knows nothing of what a stage does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

from app.scheduling.batching import Ran

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of a request. Its ends are readings of time.perf_counter()."""

    name: str
    started_at: float
    ended_at: float


@dataclass(slots=True)
class StageTimes:
    """The stages of one request, in the order in which they were recorded."""

    stages: list[Stage] = field(default_factory=list)
    batch_size: int = 0
    """Items of the largest batch in which any of its items ran; 0 where none did."""

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage; stages of one name are added up."""
        total: dict[str, float] = {}
        for stage in self.stages:
            total[stage.name] = total.get(stage.name, 0.0) + stage.ended_at - stage.started_at
        return total

    def add(self, stage: str, seconds: float, *, ended_at: float | None = None) -> None:
        """Record a stage that has just ended, or did at `ended_at`."""
        end = perf_counter() if ended_at is None else ended_at
        self.stages.append(Stage(stage, end - seconds, end))

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Record how long the block takes."""
        started = perf_counter()
        yield
        self.add(stage, perf_counter() - started)

    def add_ran(self, ran: Sequence[Ran[T]], *, shaping_s: float = 0.0) -> None:
        """Record the queue and the device of a request whose items may have run in several batches.

        `shaping_s` is what another stage takes of the last batch's time, at its end.
        """
        slowest = last_batch(ran)[0]
        now = perf_counter()
        self.add("queue", slowest.queue_s, ended_at=now - slowest.device_s)
        self.add("device", slowest.device_s - shaping_s, ended_at=now - shaping_s)
        self.batch_size = max(self.batch_size, *(r.batch_size for r in ran))


def last_batch(ran: Sequence[Ran[T]]) -> list[Ran[T]]:
    """Of what a request was, those items that ran in the batch that ended last."""
    ends = [each.queue_s + each.device_s for each in ran]
    last = max(ends)
    return [each for each, end in zip(ran, ends, strict=True) if end == last]
