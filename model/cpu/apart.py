"""Independent parts of one work, each on a core of its own, without a barrier after every operation.

An operation that is divided among threads ends with the last of them. Where parts are many operations each, and
share nothing, a thread that takes whole parts waits once, at the end, and keeps its part in its core's cache. Does
not know what is computed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

from model.cpu.threads import set_up_thread

T = TypeVar("T")
Between = Callable[[], None]
Part = Callable[[Between], T]


def run_apart(parts: Sequence[Part[T]], between: Between) -> list[T]:
    """Return what the parts return, in order. As many at a time as torch has threads here, each with one thread.

    Only the calling thread pauses: its parts get `between`, and what that runs has one thread too. If it changes
    the number of threads, that counts only until the return.
    """
    threads = min(torch.get_num_threads(), len(parts))
    if threads == 1:
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

    is_inference, usual = torch.is_inference_mode_enabled(), torch.get_num_threads()

    def help_out() -> None:
        with torch.inference_mode(is_inference):
            take(_do_not_pause)

    helpers: list[Future[None]] = []
    torch.set_num_threads(1)
    try:
        helpers += [_helpers(usual - 1).submit(help_out) for _ in range(threads - 1)]
        take(between)
    finally:
        todo.clear()  # of a failure: nobody waits for the rest
        wait(helpers)
        torch.set_num_threads(usual)
    for helper in helpers:
        helper.result()
    return [results[place] for place in range(len(parts))]


def _do_not_pause() -> None:
    pass


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    """Threads that wait for parts. Each takes tiny numbers as zero, as the device's thread does."""
    return ThreadPoolExecutor(count, "sam2-apart", initializer=lambda: set_up_thread(1, cpus=None))
