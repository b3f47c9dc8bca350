"""Files that are written beside their places and then renamed, so that each of them is whole or not there.

Several servers may share the folder. Does not know what is in the files.
"""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Self

_PREFIX = ".beside-"
"""Of a file's name until the file is whole."""
_STALE_S = 3600.0
"""No write takes that long."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A whole file, next to its final path."""

    beside: Path
    place: Path

    @classmethod
    def written(cls, place: Path, data: bytes) -> Self:
        """Write a file, in a folder that exists. Raises OSError."""
        made = cls(place.with_name(f"{_PREFIX}{uuid.uuid4().hex}"), place)
        try:
            with made.beside.open("xb") as file:
                file.write(data)
        except BaseException:
            made.discard()
            raise
        return made

    def appear(self) -> None:
        """Move it to its final path with an atomic rename, replacing any file there."""
        self.beside.replace(self.place)

    def settle(self) -> None:
        """Make it survive a power cut too, with fsync, after `appear`. Raises OSError.

        Not before `appear`, because a killed process loses nothing without fsync, and a busy disk takes seconds for
        one. A file torn by a power cut has a wrong checksum.
        """
        try:
            with self.place.open("rb") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:
            pass  # removed already

    def discard(self) -> None:
        """Remove it."""
        self.beside.unlink(missing_ok=True)


def is_partial(name: str) -> bool:
    """Whether a name is that of a file that is not whole, or not yet in its place."""
    return name.startswith(_PREFIX)


def is_stale(written: float) -> bool:
    """Whether a partial file, last written at that time, may be removed: its server was killed."""
    return time() - written > _STALE_S
