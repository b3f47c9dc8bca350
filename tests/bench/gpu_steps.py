"""Steps one after the other: what fails, what hangs and what does not fit costs its own figures and no others.

Does not know what a step measures.
"""

import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from types import FrameType

from tests.bench.gpu_session import FRAMES, Session

SLACK, SLACK_S = 3.0, 30.0
"""A step may take so many times its estimate, and so many seconds more: beyond that it hangs."""


class Cut(BaseException):
    """A signal asks for the end. No Exception, so that no step takes it for a failure of its own."""


class TookTooLong(BaseException):
    """A step that hangs, or that the deadline has met. Neither, so that none of its parts takes it for its own."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to check or to measure."""

    name: str
    run: Callable[[Session], None]
    cost_s: float
    """Seconds on an H100, by estimate: without so many left, it is not begun."""


def run_steps(
    steps: Sequence[Step], session: Session, *, seconds: float, clock: Callable[[], float] = monotonic
) -> None:
    """Run all that fits, in order. Raises Cut where a signal asks for it, in a block of `heeding_signals`.

    `seconds` from now is the deadline, infinite for none.
    """
    results, end = session.results, clock() + seconds
    for step in steps:
        results.begin(step.name)
        started = clock()
        if started + step.cost_s > end:
            results.end("skipped")
            results.note(
                "skipped", f"it takes {step.cost_s:.0f} s, and {max(0.0, end - started):.0f} are left"
            )
            continue
        outcome = "cut off after"
        try:
            limit = min(end - started, SLACK * step.cost_s + SLACK_S) if seconds != float("inf") else 0.0
            with _at_most(limit):
                step.run(session)
            outcome = ""
        except (Exception, TookTooLong):
            outcome = "failed after"
            results.note("failed", traceback.format_exc(limit=-FRAMES))
        finally:
            results.end(f"{outcome} {clock() - started:.1f}".strip())
        session.tidy()


@contextmanager
def heeding_signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise Cut in the block, once; what comes later is ignored, so that cleaning up ends."""

    def cut(number: int, _: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise Cut(signal.Signals(number).name)

    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, cut) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TookTooLong in the block after so many seconds; 0 for never."""

    def stop(_: int, __: FrameType | None) -> None:
        raise TookTooLong(f"cut off after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
