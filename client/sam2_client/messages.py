"""What the commands say: results on standard output, everything else in lines on standard error.

Lines appear above a progress bar, not within it. Does not know the commands.
"""

import sys
from collections.abc import Sequence

from tqdm import tqdm

_MOST_NAMED = 20


def say(message: str) -> None:
    """Print a result."""
    tqdm.write(message, file=sys.stdout)


def complain(message: str) -> None:
    """Print a line about what is wrong."""
    tqdm.write(f"sam2: {message}", file=sys.stderr)


def why(error: Exception | None) -> str:
    """Return the error's message without the file's name, which the caller adds."""
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)


def named(things: Sequence[object]) -> str:
    """Return a list in words: all of a few, or the first and how many more."""
    more = f" and {len(things) - _MOST_NAMED} more" if len(things) > _MOST_NAMED else ""
    return f"{', '.join(map(str, things[:_MOST_NAMED]))}{more}"
