"""What the commands say: results on standard output, everything else in lines on standard error.

Lines appear above a progress bar, not within it. Does not know the commands.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

_MOST_NAMED = 20


def say(message: str) -> None:
    """Print a result."""
    tqdm.write(_line(message, sys.stdout), file=sys.stdout)


def tell(line: str) -> None:
    """Print a line that programs read too: as it is, but for what standard output cannot encode."""
    sys.stdout.write(f"{_encodable(line, sys.stdout)}\n")


def complain(message: str) -> None:
    """Print a line about what is wrong."""
    tqdm.write(_line(f"sam2: {message}", sys.stderr), file=sys.stderr)


def why(error: Exception | None) -> str:
    """Return the error's message without the file's name, which the caller adds."""
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Name the file in an OSError that names none, as that of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(file)
        raise


def named(things: Sequence[object]) -> str:
    """Return a list in words: all of a few, or the first and how many more."""
    more = f" and {len(things) - _MOST_NAMED} more" if len(things) > _MOST_NAMED else ""
    return f"{', '.join(map(str, things[:_MOST_NAMED]))}{more}"


def at_most(lines: Sequence[str], others: str) -> list[str]:
    """Return all of a few lines, or the first and one about the others: there may be thousands of one kind."""
    more = len(lines) - _MOST_NAMED
    return [*lines[:_MOST_NAMED], *([f"{more} more {others}"] if more > 0 else [])]


def _line(message: str, file: TextIO) -> str:
    """Return the message as one line that `file` can encode. Names in data sets may hold anything."""
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in message)
    return _encodable(shown, file)


def _encodable(line: str, file: TextIO) -> str:
    encoding = file.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)
