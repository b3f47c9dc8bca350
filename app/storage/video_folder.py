"""Video files in a folder, which several servers may share. A file is whole or not there.

Everything here is slow and belongs in worker threads. Does not know about the names of videos.
"""

import os
from collections.abc import Callable
from pathlib import Path
from time import time_ns
from typing import BinaryIO

from app.storage.staged_file import StagedFile, is_partial, is_stale


class VideoFolder:
    """The videos of a folder. A file's modification time is its last use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unreadable = set[str]()
        """Contents whose file is there and could not be read: who sends one writes it anew."""

    def use(self, content: str) -> bool:
        """Count a use of a file, which may be open for long. Returns whether it is there."""
        return _touch(self._folder / content)

    def open(self, content: str) -> BinaryIO | None:
        """Open a file, which counts as a use; None if there is none. Raises OSError."""
        try:
            file = (self._folder / content).open("rb")
        except FileNotFoundError:
            return None
        except OSError:
            self._unreadable.add(content)
            raise
        self._unreadable.discard(content)
        _touch(file.fileno())
        return file

    def write_beside(self, content: str, data: bytes) -> StagedFile | None:
        """Write a file next to its final path; None if it is there already. Raises OSError."""
        place = self._folder / content
        if place.exists() and content not in self._unreadable:
            return None
        # Videos are private: only this user may read them.
        for folder in (self._folder.parent, self._folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return StagedFile.written(place, data)

    def remove(self, content: str) -> None:
        """Remove a file, if it is there. Raises OSError."""
        (self._folder / content).unlink(missing_ok=True)

    def trim(self, capacity_bytes: int, on_evict: Callable[[str], None]) -> int:
        """Remove files beyond the capacity, the least recently used first, and partial files of killed servers.

        Returns the bytes of the others. Raises OSError; FileNotFoundError if nothing was written yet, or if another
        server removed a file.
        """
        found: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            state = path.stat()
            if not is_partial(path.name):
                found.append((state.st_mtime, state.st_size, path))
            elif is_stale(state.st_mtime):
                path.unlink(missing_ok=True)
        used, failure = sum(size for _, size, _ in found), None
        for _, size, path in sorted(found)[:-1]:  # the newest stays, even if it alone is larger
            if used <= capacity_bytes:
                break
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # the others go all the same
                failure = error
                continue
            on_evict(path.name)
            used -= size
        if failure is not None:
            raise failure
        return used


def _touch(file: Path | int) -> bool:
    """Make now the time of a file's last use. Returns whether it is there."""
    now = time_ns()
    try:
        os.utime(file, ns=(now, now))
    except FileNotFoundError:
        return False
    except OSError:  # owned by another user, say: then it is removed a little earlier
        pass
    return True
