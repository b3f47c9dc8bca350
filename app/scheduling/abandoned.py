"""Jobs in worker threads that nobody waits for any more: they find out, and end early.

A thread cannot be stopped from outside. So long jobs ask between their parts. Does not know what the jobs are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event

_abandoned: ContextVar[Event | None] = ContextVar("abandoned", default=None)


class Abandoned(Exception):
    """Nobody waits for this job any more. Raised within the job, and seen by nobody else."""


@contextmanager
def abandoned_by(event: Event) -> Iterator[None]:
    """Make `check_wanted` raise in this thread once the event is set, while the block runs."""
    token = _abandoned.set(event)
    try:
        yield
    finally:
        _abandoned.reset(token)


def check_wanted() -> None:
    """Raise Abandoned if this job's caller has gone or missed its deadline. Outside of jobs, do nothing."""
    event = _abandoned.get()
    if event is not None and event.is_set():
        raise Abandoned
