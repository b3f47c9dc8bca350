"""Independent parts of one work, each on a core of its own, without a barrier after every operation.

An operation that is divided among threads ends with the last of them. Where parts are many operations each, and
share nothing, a thread that takes whole parts waits once, at the end, and keeps its part in its core's cache. A
click of a search has 150 operations: 27 ms of two cores' time, and 19 with a click for each core. Does not know
what is computed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import TypeVar

import torch

from model.cpu.threads import set_up_thread

T = TypeVar("T")
Between = Callable[[], None]
Part = Callable[[Between], T]


def run_apart(parts: Sequence[Part[T]], between: Between, *, most: int | None = None) -> list[T]:
    """Return what the parts return, in order. As many at a time as torch has threads here, which they share.

    With `most`, at most so many at a time.

    Only the calling thread pauses: its parts get `between`, and what that runs has its share of threads too. If it
    changes their number, that counts only until the return. After a failure no other part begins there, and all
    have ended when it is raised.
    """
    usual = torch.get_num_threads()
    threads = min(usual, len(parts), most or usual)
    if threads <= 1:
        return [part(between) for part in parts]
    todo = deque(enumerate(parts))
    results: dict[int, T] = {}

    def take(pause: Between) -> None:
        while True:
            try:
                place, part = todo.popleft()
            except IndexError:
                return
            results[place] = part(pause)

    is_inference, share = torch.is_inference_mode_enabled(), usual // threads

    def help_out() -> None:
        torch.set_num_threads(share)
        with torch.inference_mode(is_inference):
            take(do_not_pause)

    helpers: list[Future[None]] = []
    torch.set_num_threads(share)
    try:
        helpers += [_helpers(usual - 1).submit(help_out) for _ in range(threads - 1)]
        take(between)
    finally:
        todo.clear()  # of a failure: nobody waits for the rest
        wait(helpers)
        torch.set_num_threads(usual)  # MKL has one number for all threads, and the helpers set it too
    for helper in helpers:
        helper.result()
    return [results[place] for place in range(len(parts))]


def divided(count: int, parts: int) -> list[slice]:
    """Return slices of `count` things for so many parts, as equal as may be, larger ones first, none empty."""
    parts = min(count, parts)
    ends = [i * (count // parts) + min(i, count % parts) for i in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def do_not_pause() -> None:
    """The `between` of work that nothing passes."""


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    """Threads that wait for parts. Each takes tiny numbers as zero, as the device's thread does."""
    return ThreadPoolExecutor(count, "sam2-apart", initializer=lambda: set_up_thread(1, cpus=None))
