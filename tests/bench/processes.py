"""Processes as /proc shows them: what is below one, its memory, its time, and the end of what is left.

Does not know what they do.
"""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME, _STARTED = 11, 12, 19
"""Places in /proc/PID/stat after the command in brackets."""


class Process(NamedTuple):
    """A process. Its start tells it from a later one with the same number."""

    pid: int
    started: int


def below(pid: int) -> list[Process]:
    """Return the descendants of a process."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in map(int, (task / "children").read_text().split()):
                    found += [Process(child, int(_stat(child)[_STARTED])), *below(child)]
    return found


def end(processes: Iterable[Process]) -> list[Process]:
    """Kill those that still run. Return them."""
    left = []
    for process in processes:
        with suppress(OSError):
            state, *_ = fields = _stat(process.pid)
            if int(fields[_STARTED]) == process.started and state != "Z":
                os.kill(process.pid, signal.SIGKILL)
                left.append(process)
    return left


def cpu_s(pid: int) -> float:
    """Return the seconds that processors have worked for a process."""
    fields = _stat(pid)
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS


def pss_mib(pid: int) -> float:
    """Return the memory of a process, with its part of what it shares."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) / 1024


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
