"""Where a page of a list ends, as a text that clients send back to get the next one.

It says all that finds the place, because what was there may have been deleted meanwhile: whoever deletes what a
page lists has deleted its last one, too. Does not know what is listed.
"""

import math
from typing import NamedTuple, Protocol

_BETWEEN = "~"
"""No name has it."""


class Placed(Protocol):
    """What has a place in a list: the newest is first, and of equally old ones the last in the alphabet."""

    @property
    def created(self) -> float:
        """Seconds since 1970."""

    @property
    def image_id(self) -> str:
        """Its name."""


class Place(NamedTuple):
    """A place in a list, whether anything is there or not."""

    created: float
    image_id: str


def place_as_text(created: float, name: str) -> str:
    """Return a place for a client."""
    return f"{created!r}{_BETWEEN}{name}"


def place_in(text: str) -> Place | None:
    """Return the place that a text says; None if it is a name, or nothing that `place_as_text` made."""
    created, between, name = text.partition(_BETWEEN)
    try:
        place = Place(float(created), name)
    except ValueError:
        return None
    return place if between and math.isfinite(place.created) else None
