"""How much a check may do. Does not know what it does."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Effort:
    """Either all that issue 5 asks for, or little of it."""

    folder: Path
    """For what a check writes; empty at its start."""
    quick: bool = False
    minutes: float | None = None
    """Of checks that run for a time."""

    def seconds(self, *, full: float, quick: float) -> float:
        """How long a check that runs for a time does so."""
        if self.minutes is not None:
            return 60 * self.minutes
        return quick if self.quick else full

    def times(self, *, full: int, quick: int) -> int:
        """How often a check that counts does what it does."""
        return quick if self.quick else full
