"""The file that a download grows in, which one process has to itself. Does not know where its bytes come from."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from model.checkpoints.file_locks import NoLocks, lock

logger = logging.getLogger(__name__)


@contextmanager
def part_of(target: Path) -> Iterator[tuple[FileIO, Path] | None]:
    """Open what will be renamed to `target`, after an earlier part of it, and say where it is.

    Waits while another process has it: None if that has renamed or removed it. Where the file system has no locks,
    each process has a file of its own, which no later one goes on with. What is empty at the end is removed.
    """
    with ExitStack() as files:
        place = target.with_name(f"{target.name}.part")
        part = files.enter_context(place.open("ab+", buffering=0))
        try:
            if not lock(part):
                logger.info("another process is downloading %s; waiting for it", target)
                lock(part, waits=True)
        except NoLocks:  # two processes would append to one file
            _remove_empty(part, place)
            place = target.with_name(f"{target.name}.{socket.gethostname()}.{os.getpid()}.part")
            part = files.enter_context(place.open("ab+", buffering=0))
        if not _is_at(part, place):
            yield None
            return
        try:
            yield part, place
        finally:
            _remove_empty(part, place)


def size_of(file: FileIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def _remove_empty(file: FileIO, place: Path) -> None:
    if _is_at(file, place) and not size_of(file):
        place.unlink(missing_ok=True)


def _is_at(file: FileIO, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), place.stat())
    except FileNotFoundError:
        return False
