"""Which Devices a key belongs to, and when a busy one passes a call on: consistent hashing with bounded loads.

All servers compute the same ring from the names of the Devices. Does not know what a key stands for.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import chain
from operator import itemgetter

POINTS = 1000
"""Of each Device on the ring. Of 100 Devices the busiest has a sixth more keys than the mean."""
CANDIDATES = 8
"""The owner of a key, and its successors that may get what is too much for it."""
MOST_OVER_MEAN = 1.25
ALWAYS_TAKEN_ON_CPU, ALWAYS_TAKEN_ON_GPU = 4, 32
"""Calls that a Device gets whatever the others have. One that goes elsewhere must load its picture, which takes as
long as a full batch of a GPU, but no longer than a click of a CPU (docs/scaling-figures.md)."""


class Ring:
    """A ring of Devices, by their names. Made from another one, it need not hash those that stay."""

    def __init__(self, names: Iterable[str], *, before: "Ring | None" = None, points: int = POINTS) -> None:
        known = before._of if before is not None else {}
        self._of: dict[str, list[tuple[int, str]]] = {
            name: known.get(name) or _points(name, points) for name in sorted(set(names))
        }
        on_ring = sorted(chain.from_iterable(self._of.values()))
        self._hashes = list(map(itemgetter(0), on_ring))
        self._names = list(map(itemgetter(1), on_ring))

    @property
    def names(self) -> frozenset[str]:
        """The Devices."""
        return frozenset(self._of)

    def ranked(self, key: str, count: int = CANDIDATES) -> list[str]:
        """Return at most `count` Devices for a key: its owner, and the next ones on the ring."""
        found: dict[str, None] = {}
        wanted = min(count, len(self._of))
        at = bisect_right(self._hashes, _hash(key))
        while len(found) < wanted:
            found[self._names[at % len(self._names)]] = None
            at += 1
        return list(found)


def within_bounds(
    ranked: Sequence[str], load_of: Callable[[str], int], *, total: int, devices: int, always_taken: int
) -> list[str]:
    """Return the Devices for a key in the order in which they are tried: those with too many calls under way last.

    Too many is a quarter more than the mean of all `devices`, which have `total` calls, but above `always_taken`.
    Who knows only a part of the calls, as one of several servers, keeps the bound for that part, and so all of them
    do for the whole.
    """
    most = max(always_taken, math.ceil(MOST_OVER_MEAN * (total + 1) / devices))
    return sorted(ranked, key=lambda name: load_of(name) >= most)


def _points(name: str, count: int) -> list[tuple[int, str]]:
    return sorted((_hash(f"{name}:{i}"), name) for i in range(count))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
