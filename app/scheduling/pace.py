"""Estimate how long a queue will take from its recent pace, and decide who is rejected because of that.

Does not know what the items are, or whose they are.
"""

import math
from collections import deque
from dataclasses import dataclass

from app.errors import Overloaded

_REMEMBERED = 8
_BELIEVED_S = 60.0
"""Older measurements are ignored: the load was different then."""
_MARGIN = 1.5
"""A new request is admitted if 1.5 times the estimate is left: others may come and go first."""
_MARGIN_WAITING = 1.2
"""Lower for requests that wait already, so that not every change of the pace rejects one."""


@dataclass(frozen=True, slots=True)
class _Measured:
    size: int
    seconds: float
    at: float


class Pace:
    """Estimates the seconds that a queue takes for its items. At most `most` items are done together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._measured: deque[_Measured] = deque(maxlen=_REMEMBERED)

    def note(self, size: int, seconds: float, *, at: float) -> None:
        """Record that `size` items, done together, took `seconds` until `at`. Items must have been waiting."""
        self._measured.append(_Measured(size, seconds, at))

    def seconds(self, count: int, *, at: float) -> float:
        """Return the seconds that `count` items take; 0 if too little was measured recently.

        Uses the mean of the last few batches (8) without the slowest, because one stall or one slow start says
        nothing about the pace. A batch is assumed to take as long per item as a smaller measured one, and as long
        in total as a larger one.
        """
        size = min(count, self._most)
        recent = [one for one in self._measured if one.at > at - _BELIEVED_S]
        usual = sorted(one.seconds * max(1.0, size / one.size) for one in recent)[:-1]
        return math.ceil(count / self._most) * sum(usual) / len(usual) if usual else 0.0


def is_late(seconds: float, *, left_s: float) -> bool:
    """Whether to reject a new request that would be done after `seconds`."""
    return seconds * _MARGIN > left_s


def has_become_late(seconds: float, *, left_s: float) -> bool:
    """Whether to reject a waiting request, admitted at another pace, that would be done after `seconds`."""
    return seconds * _MARGIN_WAITING > left_s


def too_late(what: str, seconds: float, *, left_s: float, all_s: float) -> Overloaded:
    """Return the error for a request that would be done after `seconds`. The queue is empty after `all_s`.

    After its Retry-After the queue is short enough, unless others have come.
    """
    return Overloaded(
        f"{what} would be done in about {seconds:.1f} s, and {max(0.0, left_s):.1f} s are left until the "
        "deadline (SAM2_DEADLINE_S). The server is busy; try again later.",
        retry_after_s=max(1, math.ceil(min(all_s, seconds - left_s / _MARGIN))),
    )
