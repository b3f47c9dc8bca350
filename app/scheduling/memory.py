"""A batch that does not fit into device memory: what is stored is evicted, and the batch runs in halves.

Does not know about tensors, or what is evicted.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from app.errors import Overloaded, ServiceError
from model.errors import DeviceOutOfMemory, NoFreeSlot

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

SHED_FRACTION = 0.5
"""Fraction of the stored bytes that is evicted when memory runs out: with less it would run out again at once."""

_RETRY_AFTER_S = 5


class WithinMemory(Generic[Item, Result]):
    """Wraps the `run` of a Batcher: an item that does not fit into device memory fails alone, with Overloaded.

    If a batch does not fit, `shed` gets the fraction (0..1) to evict of the stored embeddings, or of what else
    takes memory and is not in use, and returns how many it evicted. Then halves of the batch are tried, and halves
    of a half that still does not fit. If a single item does not fit, the items behind it fail too: they are no
    smaller, and others wait for the device. `on_full` is called once for each such batch.

    If only places for embeddings are missing (NoFreeSlot), `make_room` evicts the coldest embedding and returns
    when it has left. This repeats until the batch fits or `make_room` returns false: nothing is left to evict.

    Everything runs on the device thread.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        make_room: Callable[[], bool],
        shed: Callable[[float], int],
        on_full: Callable[[], None],
    ) -> None:
        self._run = run
        self._make_room = make_room
        self._shed = shed
        self._on_full = on_full

    def __call__(self, items: Sequence[Item]) -> Sequence[Result | ServiceError]:
        """Return results in the order of the items. Raises what `run` raises, except DeviceOutOfMemory."""
        whole = self._try(items)
        if whole is not None:
            return whole
        self._on_full()
        log.warning(
            "The device ran out of memory in a batch of %d. Evicted %d embeddings or tracks; trying halves.",
            len(items),
            self._shed(SHED_FRACTION),
        )
        results: list[Result | ServiceError] = []
        waiting = _halves(items)
        while waiting:
            part = waiting.pop(0)
            outcome = self._try(part)
            if outcome is not None:
                results += outcome
            elif len(part) > 1:
                waiting[:0] = _halves(part)
            else:
                break
        if failed := len(items) - len(results):
            log.error("The device is out of memory: rejected %d items of a batch of %d.", failed, len(items))
            refusal = Overloaded(
                "The device is out of memory. Try again later.", retry_after_s=_RETRY_AFTER_S
            )
            results += [refusal] * failed
        return results

    def _try(self, items: Sequence[Item]) -> Sequence[Result] | None:
        """Run the items; None if they do not fit. Drops the exceptions, because their frames may hold the items."""
        while True:
            try:
                return self._run(items)
            except NoFreeSlot:
                pass
            except DeviceOutOfMemory:
                return None
            # This may take several rounds: some embeddings keep their places until their prompts are answered.
            if not self._make_room():
                return None


def _halves(items: Sequence[Item]) -> list[Sequence[Item]]:
    middle = len(items) // 2
    return [half for half in (items[:middle], items[middle:]) if half]
