"""How many threads a forward uses on a CPU: all it may have, and fewer while other processes want the same cores.

A forward is hundreds of short parallel regions, and each ends with its last thread. If another process runs on the
core of that thread, all others wait for a time slice of the scheduler: beside four busy processes on two cores, a
click of 8 ms took 90 ms (p95 940 ms) with two threads, and 23 ms (p95 37 ms) with one. Does not know
what the threads compute.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time, thread_time
from typing import NamedTuple

import torch

log = logging.getLogger(__name__)

WINDOW_S = 0.03
"""Work is judged each time it has taken this long; less is too short for the clocks and the scheduler."""

MIN_BUSY = 0.75
"""Least share of wall time that an undisturbed thread runs on a CPU. Waiting for another thread counts as running,
because OpenMP spins. On two quiet cores the mean of both threads was 0.99, beside two busy processes 0.5."""

CONTENDED_WINDOWS = 2
"""In a row, before threads are taken away: a virtual machine loses a core for a moment now and then."""

FIRST_PATIENCE_S, MOST_PATIENCE_S = 1.0, 60.0
"""Time after which more threads are tried again. It doubles each time that this was too early."""


class Sharing(threading.local):
    """What a thread that shares its work with helpers (apart.py) says of itself."""

    threads: int = 0
    """That it has of those which all of them share; 0 while it works alone."""
    waited_s: float = 0.0
    """How long it has waited for helpers, which computed, since it began."""


SHARING = Sharing()


class Spent(NamedTuple):
    """Seconds of wall time, of the calling thread on a CPU, and of all threads of the process on CPUs."""

    wall: float
    thread: float
    process: float


def read_clocks() -> Spent:
    """What the clocks show; differences are what was spent.

    Without the time in which this thread waited for one helper or more: it was short of work, not of a core.
    """
    waited_s = SHARING.waited_s
    return Spent(perf_counter() - waited_s, thread_time(), process_time() - waited_s)


def set_up_thread(threads: int, *, cpus: int | None) -> None:
    """Let torch use so many threads on the calling thread, with 0 one for each core, at most `cpus`.

    From now on this thread, and those that torch starts for it, take numbers below 1e-38 as zero. A softmax with a
    sharp maximum makes many of them, and Intel's processors multiply each in microcode: a click of 20 ms took 220.
    """
    # Before the first operation, which starts torch's threads with what is set here.
    torch.set_flush_denormal(True)
    if threads or cpus is not None:
        torch.set_num_threads(threads or min(torch.get_num_threads(), cpus or 1))


class Threads:
    """Sets the number of torch's threads for the thread that calls it: `most`, halved while cores are contended."""

    def __init__(
        self,
        most: int,
        *,
        set_threads: Callable[[int], None] = torch.set_num_threads,
        read: Callable[[], Spent] = read_clocks,
    ) -> None:
        self.most = most
        """Threads on a quiet machine, at least 1."""
        self.now = most
        self._set_threads = set_threads
        self._read = read
        self._spent = Spent(0.0, 0.0, 0.0)
        self._is_late = False
        self._is_working = False
        self._contended_windows = 0
        self._changed_at = -MOST_PATIENCE_S
        self._patience_s = FIRST_PATIENCE_S

    @contextmanager
    def working(self, between: Callable[[], None] = lambda: None) -> Iterator[Callable[[], None]]:
        """Run the work inside with `now` threads, and measure it.

        Long work calls the yielded function between its parts. That may change the number of threads, and calls
        `between`. Work inside of work is measured as part of it.
        """
        if self._is_working:
            yield between
            return
        self._set_threads(self.now)  # something else on this thread may have changed it
        if self.most == 1:
            yield between
            return
        started = self._read()

        def look() -> None:
            nonlocal started
            until = self._read()
            self._add(Spent(*(b - a for a, b in zip(started, until, strict=True))), at=until.wall)
            started = until

        def pause() -> None:
            look()
            if self._is_late and not SHARING.threads:
                self._use(self.now)
            between()

        self._is_working = True
        try:
            yield pause
        finally:
            self._is_working = False
            look()

    def _add(self, spent: Spent, *, at: float) -> None:
        self._spent = Spent(*(a + b for a, b in zip(self._spent, spent, strict=True)))
        if self._spent.wall >= WINDOW_S:
            self._judge(self._spent, at=at)
            self._spent = Spent(0.0, 0.0, 0.0)

    def _judge(self, spent: Spent, *, at: float) -> None:
        # Both must be short of CPU time: the process alone also is while Python runs between the regions, and the
        # calling thread alone also is while the server's other threads compute.
        is_contended = (
            spent.process < MIN_BUSY * self.now * spent.wall and spent.thread < MIN_BUSY * spent.wall
        )
        quiet_s = at - self._changed_at
        self._contended_windows = self._contended_windows + 1 if is_contended else 0
        if not is_contended:
            if self.now < self.most and quiet_s >= self._patience_s:
                self._use(min(self.most, 2 * self.now))
                self._changed_at = at
            return
        if self.now > 1:
            if self._contended_windows < CONTENDED_WINDOWS:
                return
            was_too_early = quiet_s < self._patience_s
            self._patience_s = (
                min(2 * self._patience_s, MOST_PATIENCE_S) if was_too_early else FIRST_PATIENCE_S
            )
            self._use(self.now // 2)
        self._changed_at = at

    def _use(self, threads: int) -> None:
        log.debug("%d threads instead of %d", threads, self.now)
        self.now = threads
        # While work is shared, torch's number is this thread's share.
        self._is_late = SHARING.threads > 0
        if not self._is_late:
            self._set_threads(threads)
