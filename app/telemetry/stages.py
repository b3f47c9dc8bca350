"""When each stage of a request ran, and for how long: for Server-Timing, the log, the metrics and the traces.

Does not know what a stage does.
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
    """One stage of a request. Start and end are values of time.perf_counter()."""

    name: str
    started_at: float
    ended_at: float
    is_traced: bool = False
    """Whether another process, where it ran, sends a span of it."""


@dataclass(slots=True)
class StageTimes:
    """The stages of one request, in the order in which they were recorded."""

    stages: list[Stage] = field(default_factory=list)
    batch_size: int = 0
    """Size of the largest batch in which any of the request's items ran; 0 if none did."""

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage. Stages with the same name are added up."""
        total: dict[str, float] = {}
        for stage in self.stages:
            total[stage.name] = total.get(stage.name, 0.0) + stage.ended_at - stage.started_at
        return total

    def add(
        self, stage: str, seconds: float, *, ended_at: float | None = None, is_traced: bool = False
    ) -> None:
        """Record a stage that ended at `ended_at`, by default now."""
        end = perf_counter() if ended_at is None else ended_at
        self.stages.append(Stage(stage, end - seconds, end, is_traced))

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Record how long the block takes."""
        started = perf_counter()
        yield
        self.add(stage, perf_counter() - started)

    def add_ran(self, ran: Sequence[Ran[T]], *, shaping_s: float = 0.0) -> None:
        """Record the stages "queue" and "device" of a request whose items may have run in several batches.

        `shaping_s` is the time at the end of the last batch that counts as another stage.
        """
        slowest = last_batch(ran)[0]
        now = perf_counter()
        self.add("queue", slowest.queue_s, ended_at=now - slowest.device_s)
        self.add("device", slowest.device_s - shaping_s, ended_at=now - shaping_s)
        self.batch_size = max(self.batch_size, *(r.batch_size for r in ran))


def last_batch(ran: Sequence[Ran[T]]) -> list[Ran[T]]:
    """Return those items of a request that ran in the batch that ended last."""
    ends = [each.queue_s + each.device_s for each in ran]
    last = max(ends)
    return [each for each, end in zip(ran, ends, strict=True) if end == last]
