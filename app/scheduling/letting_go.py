"""Jobs that hold nothing once they have run. Does not know what they hold, or where they run.

The thread of a pool tells that a job is done, and only then lets go of the job. On a busy machine that is a moment
too late for whoever has its answer and needs what the job held, as an embedding's place on the device.
"""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def held_while_running(job: Callable[[], T]) -> Callable[[], T]:
    """Return a function that runs a job, once, and holds nothing of it afterwards."""
    held = [job]
    return lambda: held.pop()()
