"""How long what waits in a queue will take, from what it took lately; and who is refused on account of that.

Knows nothing of what the items are, and of whose they are.
"""

import math
from collections import deque
from dataclasses import dataclass

from app.errors import Overloaded

_REMEMBERED = 8
_BELIEVED_S = 60.0
"""What was measured longer ago says nothing: the load was another one."""
_MARGIN = 1.5
"""Who comes is let in where so many times the estimate is left: others may come, and go first."""
_MARGIN_WAITING = 1.2
"""Less than that for who waits already, so that not every change of the pace turns somebody away."""


@dataclass(frozen=True, slots=True)
class _Measured:
    size: int
    seconds: float
    at: float


class Pace:
    """Seconds that a queue takes for its items, of which `most` at most are done at one time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._measured: deque[_Measured] = deque(maxlen=_REMEMBERED)

    def note(self, size: int, seconds: float, *, at: float) -> None:
        """So many items done at one time, while items waited, took so long until `at`."""
        self._measured.append(_Measured(size, seconds, at))

    def seconds(self, count: int, *, at: float) -> float:
        """How long so many items take; 0 where too little was measured lately.

        By the mean of the last few batches without the slowest: one stall, or one slow start, is no pace. A batch
        is taken to need as long for each item as a smaller one did, and as long as a larger one.
        """
        size = min(count, self._most)
        recent = [one for one in self._measured if one.at > at - _BELIEVED_S]
        usual = sorted(one.seconds * max(1.0, size / one.size) for one in recent)[:-1]
        return math.ceil(count / self._most) * sum(usual) / len(usual) if usual else 0.0


def is_late(seconds: float, *, left_s: float) -> bool:
    """Whether who comes now, and would be done after so many seconds, is to be refused."""
    return seconds * _MARGIN > left_s


def has_become_late(seconds: float, *, left_s: float) -> bool:
    """The same for who was let in, when the pace was another."""
    return seconds * _MARGIN_WAITING > left_s


def too_late(what: str, seconds: float, *, left_s: float, all_s: float) -> Overloaded:
    """The refusal of who would be done after so many seconds; `all_s` is until nobody waits any more.

    At its Retry-After the queue is short enough, unless others have come.
    """
    return Overloaded(
        f"{what} would be done in about {seconds:.1f} s, and {max(0.0, left_s):.1f} s are left until the deadline "
        "(SAM2_DEADLINE_S); the server is busy.",
        retry_after_s=max(1, math.ceil(min(all_s, seconds - left_s / _MARGIN))),
    )
