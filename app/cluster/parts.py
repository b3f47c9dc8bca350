"""Large arguments of calls, which travel in parts before their call: pickled whole, they are held several times.

Belongs to the event loop of a Device. Does not know what they are.
"""

import asyncio
import io
from dataclasses import dataclass

PART_BYTES = 8 * 2**20
KEPT_S = 60.0
"""Parts whose rest does not come for so long are dropped: their Front is gone, or its client."""


@dataclass(frozen=True, slots=True)
class InParts:
    """Stands in a call for bytes that were sent before it."""

    number: str
    nbytes: int


@dataclass(slots=True)
class _Begun:
    file: io.BytesIO
    patience: asyncio.TimerHandle


class Parts:
    """What a Device has of large arguments. Their Fronts bound it: these hold them as bodies of requests."""

    def __init__(self) -> None:
        self._begun: dict[str, _Begun] = {}

    def take(self, number: str, offset: int, data: bytes) -> bool:
        """Take the next part, also a second time. False if the parts before it went to another Device."""
        file = self._forget(number)
        if offset == 0:
            file = io.BytesIO()
        if file is None or file.tell() < offset:
            return False
        file.seek(offset)
        file.write(data)
        patience = asyncio.get_running_loop().call_later(KEPT_S, self._forget, number)
        self._begun[number] = _Begun(file, patience)
        return True

    def whole(self, announced: InParts) -> bytes | None:
        """Return an argument, of which nothing is left here; None if not all of it is here."""
        file = self._forget(announced.number)
        if file is None or file.tell() != announced.nbytes:
            return None
        return file.getvalue()  # CPython hands out the buffer itself, which is no copy

    def _forget(self, number: str) -> io.BytesIO | None:
        """Keep nothing of an argument any more. Return what there was."""
        begun = self._begun.pop(number, None)
        if begun is None:
            return None
        begun.patience.cancel()
        return begun.file
