"""Independent parts of work on threads of their own, each with its share of torch's threads.

Small operations on all cores wait for each other a hundred times in a click; whole clicks side by side do not. A
click of a search took 27 ms of two cores' time with both on each operation, and 23 with one each. Does not know
what the parts compute.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from typing import TypeVar

import torch

from model.cpu.threads import set_up_thread

P, R = TypeVar("P"), TypeVar("R")


class SideBySide:
    """Runs parts of work at the same time. Used by one thread, which takes the first part itself."""

    def __init__(self, most: int) -> None:
        """At most so many parts run at the same time."""
        self._most = most

    @cached_property
    def _helpers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max(1, self._most - 1), thread_name_prefix="sam2-beside")

    def run(self, work: Callable[[P], R], parts: Sequence[P]) -> list[R]:
        """Return what `work` makes of each part, in order. The first that fails raises, when all have ended."""
        threads = torch.get_num_threads()
        if len(parts) == 1:
            return [work(parts[0])]
        share = max(1, threads // len(parts))

        def on_helper(part: P) -> R:
            set_up_thread(share, cpus=None)
            with torch.inference_mode():
                return work(part)

        futures = [self._helpers.submit(on_helper, part) for part in parts[1:]]
        try:
            torch.set_num_threads(share)
            first = work(parts[0])
        finally:
            wait(futures)
            torch.set_num_threads(threads)  # MKL has one number for all threads, which the helpers have set too
        return [first, *(future.result() for future in futures)]


def halves(count: int, parts: int) -> list[slice]:
    """So many slices of `count`, as equal as possible, the larger first; fewer than `parts` if one would be empty."""
    parts = max(1, min(count, parts))
    sizes = [count // parts + (i < count % parts) for i in range(parts)]
    starts = [sum(sizes[:i]) for i in range(parts)]
    return [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
