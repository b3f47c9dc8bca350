"""Independent parts of work on threads of their own, each with its share of torch's threads.

An operation on two cores ends when the slower is done, and a click of a search has 150 of them: 27 ms of the cores'
time, and 19 with a click for each core. Beside busy processes that was 110 (335 of wall time) and 19 (40). Does not
know what the parts compute.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import torch

from model.cpu.threads import set_up_thread

P = TypeVar("P")
R = TypeVar("R")


class SideBySide:
    """Runs parts of work at the same time. Belongs to one thread, which does the first part itself."""

    def __init__(self, most: int) -> None:
        """At most so many parts run at the same time."""
        self._most = most

    @cached_property
    def _helpers(self) -> ThreadPoolExecutor:
        """Started with the first work that needs them."""
        return ThreadPoolExecutor(max(1, self._most - 1), thread_name_prefix="sam2-beside")

    def run(self, work: Callable[[P], R], parts: Sequence[P]) -> list[R]:
        """Return what `work` makes of each part, in order, in inference mode.

        All parts have ended when this returns or raises: what the first of those that failed did.
        """
        threads = torch.get_num_threads()
        share = max(1, threads // max(1, len(parts)))

        def helped(part: P) -> R:
            set_up_thread(share, cpus=None)
            with torch.inference_mode():
                return work(part)

        futures = [self._helpers.submit(helped, part) for part in parts[1:]]
        try:
            torch.set_num_threads(share)
            with torch.inference_mode():
                done = [work(part) for part in parts[:1]]
        finally:
            wait(futures)
            torch.set_num_threads(threads)  # MKL has one number for all threads, and the helpers set it too
        return done + [future.result() for future in futures]


def divided(count: int, parts: int) -> list[slice]:
    """Slices of `count` things for so many parts, as equal as may be, larger ones first, none empty."""
    parts = min(count, parts)
    ends = [i * (count // parts) + min(i, count % parts) for i in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]
