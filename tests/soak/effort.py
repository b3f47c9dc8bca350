"""How much work a check does. Does not know which work."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Effort:
    """Either everything that issue 5 requires, or a small part of it."""

    folder: Path
    """For the files of a check. Empty at its start."""
    quick: bool = False
    minutes: float | None = None
    """Duration of checks that run for a time; None for their own durations."""

    def seconds(self, *, full: float, quick: float) -> float:
        """Return the duration of a check that runs for a time."""
        if self.minutes is not None:
            return 60 * self.minutes
        return quick if self.quick else full

    def times(self, *, full: int, quick: int) -> int:
        """Return the number of repetitions of a check that counts."""
        return quick if self.quick else full
