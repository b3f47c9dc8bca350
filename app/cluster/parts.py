"""Large arguments of calls, which travel in parts before their call: pickled whole, they are held several times.

Belongs to the event loop of a Device. Does not know what they are.
"""

import io
from dataclasses import dataclass
from time import monotonic

PART_BYTES = 8 * 2**20
KEPT_S = 60.0
"""Parts whose rest does not come for so long are dropped when the next part comes: their Front is gone."""


@dataclass(frozen=True, slots=True)
class InParts:
    """Stands in a call for bytes that were sent before it."""

    number: str
    nbytes: int


@dataclass(slots=True)
class _Begun:
    file: io.BytesIO
    used: float


class Parts:
    """What a Device has of large arguments. Their Fronts bound it: these hold them as bodies of requests."""

    def __init__(self) -> None:
        self._begun: dict[str, _Begun] = {}

    def take(self, number: str, offset: int, data: bytes) -> bool:
        """Take the next part, also a second time. False if the parts before it went to another Device."""
        now = monotonic()
        for old in [each for each, begun in self._begun.items() if begun.used < now - KEPT_S]:
            del self._begun[old]
        if offset == 0:
            self._begun[number] = _Begun(io.BytesIO(), now)
        begun = self._begun.get(number)
        if begun is None or begun.file.tell() < offset:
            return False
        begun.file.seek(offset)
        begun.file.write(data)
        begun.used = now
        return True

    def whole(self, said: InParts) -> bytes | None:
        """Return an argument, of which nothing is left here; None if not all of it is here."""
        begun = self._begun.pop(said.number, None)
        if begun is None or begun.file.tell() != said.nbytes:
            return None
        return begun.file.getvalue()  # CPython hands out the buffer itself, which is no copy
