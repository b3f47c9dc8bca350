"""What a request spent its time on.

Knows nothing of where that is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from app.batching import Ran

T = TypeVar("T")


@dataclass(slots=True)
class StageTimes:
    """Seconds by stage of one request, in the order in which they ended."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, seconds: float) -> None:
        """Record a stage; a later stage of the same name adds to it."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def add_ran(self, ran: Sequence[Ran[T]]) -> None:
        """Record the queue and the device of a request whose items may have run in several batches."""
        slowest = max(ran, key=lambda r: r.queue_s + r.device_s)
        self.add("queue", slowest.queue_s)
        self.add("device", slowest.device_s)
