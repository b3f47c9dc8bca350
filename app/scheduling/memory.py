"""What happens where a batch does not fit into the memory of the device: room is made, and it runs in halves.

Knows nothing of tensors, and not what gives way.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from app.errors import Overloaded, ServiceError
from model.errors import DeviceOutOfMemory, NoFreeSlot

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

SHED_SHARE = 0.5
"""Of the stored bytes, where memory runs out: with less it would run out again at once."""

_RETRY_AFTER_S = 5


class WithinMemory(Generic[Item, Result]):
    """What a Batcher runs: `run`, but an item that does not fit fails alone, with Overloaded in its place.

    Where a batch does not fit, `shed` is told a share (0..1) of the stored embeddings to drop, and says how many
    these were; then halves of the batch are tried, and halves of what still does not fit. One item that does not
    fit alone ends the attempt for those behind it too: they are no smaller, and others wait for the device.
    `on_full` is called once for each such batch.

    Where nothing is missing but places for embeddings, `make_room` has the coldest one leave, and returns when it
    has, until the batch fits or it returns false: nothing is left. All on the device thread.
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
        """Results in the order of the items. Raises what `run` does, DeviceOutOfMemory apart."""
        whole = self._try(items)
        if whole is not None:
            return whole
        self._on_full()
        log.warning(
            "The device ran out of memory in a batch of %d; %d stored embeddings were dropped, halves are tried.",
            len(items),
            self._shed(SHED_SHARE),
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
            log.error("The device is out of memory: %d of a batch of %d are refused.", failed, len(items))
            refusal = Overloaded("The device is out of memory; try again.", retry_after_s=_RETRY_AFTER_S)
            results += [refusal] * failed
        return results

    def _try(self, items: Sequence[Item]) -> Sequence[Result] | None:
        """None where the items do not fit. The exceptions end here: their frames may hold the items."""
        while True:
            try:
                return self._run(items)
            except NoFreeSlot:
                pass
            except DeviceOutOfMemory:
                return None
            # It may take several goes: some hold their places until prompts are answered.
            if not self._make_room():
                return None


def _halves(items: Sequence[Item]) -> list[Sequence[Item]]:
    middle = len(items) // 2
    return [half for half in (items[:middle], items[middle:]) if half]
