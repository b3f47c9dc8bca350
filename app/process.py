"""What a process that serves a model needs: standard streams, an end; and what makes it faster: memory, the GIL.

Does not know what the process does.
"""

import ctypes
import gc
import os
import platform
import signal
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
"""Options of mallopt(3)."""


def await_imports() -> None:
    """Let a stop signal end the process while it imports, which takes seconds, and longer from a cold disk.

    Without a handler, the first process of a container would get no SIGTERM. Raises SystemExit with 1 in a folder
    that is gone: oneMKL would end the process, with the code of bad settings.
    """
    for stop in (signal.SIGINT, signal.SIGTERM):
        # Not by an exception: some imports catch all.
        signal.signal(stop, lambda sig, _: os._exit(128 + sig))
    if sys.platform != "win32" and not has_a_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the keys are read afterwards
    try:
        Path.cwd()
    except FileNotFoundError:
        sys.stderr.write("The current folder was deleted. Start the server in one that exists.\n")
        raise SystemExit(1) from None


def has_a_terminal() -> bool:
    """Whether the log goes to a terminal: SIGHUP then says that it is closed, and the server goes with it."""
    return sys.stderr is not None and sys.stderr.isatty()


def hold_standard_streams() -> None:
    """Put the null device in place of standard streams that are closed, as of a service that nobody listens to.

    Else the next sockets get their numbers, 0 to 2, and libuv (uvloop) ends the process when it closes one of them.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # as long as the process


def tune() -> None:
    """Do all of it, when everything is imported and before the event loop starts, if possible."""
    # The device thread and the event loop pass the interpreter (GIL) to each other many times per click. By default
    # a thread waits 5 ms for it. 0.5 ms gives a fifth more clicks per second, measured with 16 clients on 2 cores.
    sys.setswitchinterval(0.0005)
    keep_freed_memory()
    gc.collect()
    spare_what_stays()


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next picture, in one pool.

    By default, glibc returns large tensors to the system, which zeroes their pages before it provides them again.
    That costs 60,000 page faults per picture, a tenth of its time on a CPU. And the thread that frees a body or a
    picture of 32 MiB or more holds the interpreter for the 5 to 13 ms that returning it takes. The price is that
    memory stays at its peak until `return_freed_memory`. Other C libraries are left unchanged.
    """
    if _is_glibc():
        libc = ctypes.CDLL(None)
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)


def return_freed_memory() -> None:
    """Give the memory that was kept back to the system. For a process without work: others wait meanwhile."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def spare_what_stays() -> None:
    """Take all objects of now out of Python's garbage collection.

    Libraries and the model are 380,000 objects. A full collection looks at each of them and stops everything for
    80 ms, many times an hour. Called before the event loop starts, and again for what loading the model added: on
    the loop, so only what is new is looked at first (2 ms). A full collection finds nothing more there.
    """
    gc.collect(1)
    gc.freeze()
