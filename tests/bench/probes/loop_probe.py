"""Serves as `python -m app` does, and notes how long the event loop is held.

    python -m tests.bench.probes.loop_probe FILE

A timer of a millisecond runs on the loop. FILE gets the longest delay of that timer, and parts of it; the reader
may set them to 0. Does not know what holds the loop. Needs Linux.
"""

import asyncio
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app import __main__ as command
from app import main

_INTERVAL_S = 0.001
_NUMBERS = struct.Struct("ddd")


def _waited_s(schedstat: int) -> float:
    """Return how long a thread has been ready to run without a processor, from its file schedstat."""
    return int(os.pread(schedstat, 100, 0).split()[1]) / 1e9


@dataclass(frozen=True, slots=True)
class Holds:
    """The longest of what was noted since the reader set it to 0. Each may be of another tick."""

    delay_ms: float
    """From when the timer was due."""
    hold_ms: float
    """The same, less the time in which the loop's thread could run, but other threads had all processors: its own
    work, and waiting for the interpreter lock."""
    work_ms: float
    """Time of a processor between two ticks. All callbacks between them count, so no single one took longer."""


class Notes:
    """The file that the server and the reader share."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_NUMBERS.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _NUMBERS.size)

    def read(self) -> Holds:
        """Return what is noted."""
        return Holds(*(1000 * seconds for seconds in _NUMBERS.unpack_from(self._memory)))

    def forget(self) -> None:
        """Begin again."""
        _NUMBERS.pack_into(self._memory, 0, 0.0, 0.0, 0.0)

    def add(self, *seconds: float) -> None:
        """Note a tick: delay, hold and work."""
        longest = _NUMBERS.unpack_from(self._memory)
        _NUMBERS.pack_into(self._memory, 0, *map(max, longest, seconds))


def loop_seconds(pid: int) -> float:
    """Return the time of processors that a server's event loop, its first thread, has used so far."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


async def _watch(notes: Notes) -> None:
    schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    while True:
        due, worked, waited = time.monotonic() + _INTERVAL_S, time.thread_time(), _waited_s(schedstat)
        await asyncio.sleep(_INTERVAL_S)
        delay = max(
            0.0, time.monotonic() - due
        )  # more exact than loop.time(), which stands still within a tick
        held = max(0.0, delay - (_waited_s(schedstat) - waited))
        notes.add(delay, held, time.thread_time() - worked)


def serve(notes: Notes) -> int:
    """Run the command with this watch instead of its own."""

    def watch(observe: Callable[[float], None]) -> object:
        del observe
        return _watch(notes)

    main.watch_loop = watch  # type: ignore[attr-defined]
    return command.main([])


if __name__ == "__main__":
    sys.exit(serve(Notes(Path(sys.argv[1]))))
