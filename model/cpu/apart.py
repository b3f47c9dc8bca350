"""Independent parts of one work, each on a core of its own, without a barrier after every operation.

An operation that is divided among threads ends with the last of them. Where parts are many operations each, and
share nothing, a thread that takes whole parts waits once, at the end, and keeps its part in its core's cache. A
click of a search has 150 operations: 27 ms of two cores' time, and 19 with a click for each core. Does not know
what is computed.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, partial
from itertools import pairwise
from threading import Condition
from time import perf_counter
from typing import TypeAlias, TypeVar

import torch

from model.cpu.threads import SHARING, set_up_thread

T = TypeVar("T")
Between = Callable[[], None]
Part = Callable[[Between], T]
Task: TypeAlias = "Callable[[Between], Iterable[Task]]"
"""Returns the tasks that follow it."""

_PAUSE_S = 0.004
"""How often a thread without a task pauses while it waits."""


def run_apart(parts: Sequence[Part[T]], between: Between, *, most: int | None = None) -> list[T]:
    """Return what the parts return, in order. Otherwise as `run_all`."""
    results: dict[int, T] = {}

    def keep(place: int, part: Part[T], pause: Between) -> Iterable[Task]:
        results[place] = part(pause)
        return ()

    run_all([partial(keep, place, part) for place, part in enumerate(parts)], between, most=most)
    return [results[place] for place in range(len(parts))]


def run_all(tasks: Sequence[Task], between: Between, *, most: int | None = None) -> None:
    """Run tasks and all that follow: as many at a time as torch has threads and tasks are given, which share them.

    With `most`, at most so many at a time.

    What follows a task goes before the tasks that wait, so that little is under way, and to any thread: one that
    has no task waits for what follows those of others. Only the calling thread pauses: its tasks get `between`, it
    calls that while it waits, and what that runs has its share of threads too, at most. If it changes their number,
    that counts only until the return. After a failure no other task begins there, and all have ended when it is
    raised.
    """
    usual = torch.get_num_threads()
    before = SHARING.threads
    if before:  # the helpers of the work around this one wait for it, and cannot help here
        usual = min(usual, before)
    threads = min(usual, len(tasks), most or usual)
    line = _Line(tasks)
    if threads <= 1:
        line.work(between)
        return
    is_inference, share = torch.is_inference_mode_enabled(), usual // threads

    def help_out() -> None:
        torch.set_num_threads(share)
        with torch.inference_mode(is_inference):
            line.work(do_not_pause)

    helpers: list[Future[None]] = []
    torch.set_num_threads(share)
    SHARING.threads = share
    try:
        helpers += [_helpers(usual - 1).submit(help_out) for _ in range(threads - 1)]
        line.work(between)
    finally:
        line.close()  # of a failure: nobody waits for the rest
        wait(helpers)
        SHARING.threads = before
        torch.set_num_threads(usual)  # MKL has one number for all threads, and the helpers set it too
    for helper in helpers:
        helper.result()


class _Line:
    """Tasks that wait for threads."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = deque(tasks)
        self._running = 0
        self._closed = False
        self._changed = Condition()

    def work(self, pause: Between) -> None:
        """Run tasks until none waits and none can follow."""
        while (task := self._next(pause)) is not None:
            following: Iterable[Task] = ()
            try:
                following = task(pause)
            finally:
                self._end(following)

    def close(self) -> None:
        """Drop the tasks that wait, and what will follow."""
        with self._changed:
            self._closed = True
            self._tasks.clear()

    def _next(self, pause: Between) -> "Task | None":
        while True:
            with self._changed:
                if not self._tasks and self._running:
                    began = perf_counter()
                    self._changed.wait(_PAUSE_S)
                    SHARING.waited_s += perf_counter() - began
                if self._tasks:
                    self._running += 1
                    return self._tasks.popleft()
                if not self._running:
                    return None
            pause()

    def _end(self, following: Iterable[Task]) -> None:
        with self._changed:
            self._running -= 1
            if not self._closed:
                self._tasks.extendleft(reversed(list(following)))
            self._changed.notify_all()


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
    return ThreadPoolExecutor(count, "sam2-apart", initializer=lambda: set_up_thread(0, cpus=None))
