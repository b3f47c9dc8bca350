"""Which Fronts have asked a Device lately how it is, as each does every second. Does not know how they ask."""

from time import monotonic

from app.service.segmentation import FrontState

LATELY_S = 10.0
"""A Front that was not heard of for so long is gone, or at the other side of a network that is cut."""


class Fronts:
    """The Fronts that a Device knows. Belongs to its event loop."""

    def __init__(self) -> None:
        self._asked_at: dict[FrontState, float] = {}

    def note(self, front: FrontState) -> None:
        """Remember that a Front has asked."""
        self._asked_at[front] = monotonic()

    def lately(self) -> tuple[FrontState, ...]:
        """Return those that have asked lately."""
        since = monotonic() - LATELY_S
        self._asked_at = {front: asked_at for front, asked_at in self._asked_at.items() if asked_at >= since}
        return tuple(self._asked_at)
