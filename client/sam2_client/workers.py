"""Does work in threads that nobody waits for at a Ctrl-C: what has begun may take as long as the server's silence.

Does not know what the work is.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import TypeVar

from sam2_client.errors import RateLimited
from sam2_client.retries import turn_s

T = TypeVar("T")
R = TypeVar("R")

NAME = "sam2-client"
"""Of each thread."""


def until_admitted(work: Callable[[T], R]) -> Callable[[T], R]:
    """Return work that waits for its turn, as often and as long as the server says, where the client is over its
    limits. Among many pieces of work some would else fail because of the others.
    """

    def patient(item: T) -> R:
        while True:
            try:
                return work(item)
            except RateLimited as refusal:
                time.sleep(turn_s(refusal))

    return patient


def worked(
    items: Iterable[T], work: Callable[[T], R], *, concurrency: int
) -> Generator[tuple[T, R | Exception], None, None]:
    """Do the work of each item, `concurrency` at a time. Yield each one's result, in the order of the ends.

    An exception is the result of its item. Items are taken when there is room for them. When the iterator is
    closed, no further item begins; the threads of those that have begun keep neither the caller nor the process.
    """
    coming: SimpleQueue[tuple[T] | None] = SimpleQueue()
    ended: SimpleQueue[tuple[T, R | BaseException]] = SimpleQueue()

    def do() -> None:
        while (given := coming.get()) is not None:
            (item,) = given
            try:
                ended.put((item, work(item)))
            except BaseException as error:  # an exit too is the caller's to see
                ended.put((item, error))

    def next_end() -> tuple[T, R | Exception]:
        item, result = ended.get()
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
        return item, result

    threads = running = 0
    try:
        for item in items:
            if running == concurrency:
                yield next_end()
                running -= 1
            coming.put((item,))
            running += 1
            if running > threads:
                threading.Thread(target=do, name=NAME, daemon=True).start()
                threads += 1
        while running:
            yield next_end()
            running -= 1
    finally:
        for _ in range(threads):
            coming.put(None)
