"""Strings of megabytes in the pieces in which they were read: pictures in base64, above all.

A string of 30 MB is copied in one call, which holds the interpreter lock for 4 ms or more, so the pieces are not
joined. Does not know what the text says.
"""

from dataclasses import dataclass

HAND_OVER_S = 50e-6
"""Sleep between steps of a library that releases the interpreter lock for microseconds, many times, as numpy and
pybase64 do. Each time a waiting thread wakes, finds the lock taken again and waits anew, so it never comes to ask
for it, as it would after sys.getswitchinterval(): without this sleep 30 MB held the event loop for 100 ms."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """A long string: its pieces in order, at least one."""

    parts: tuple[str, ...]

    def __str__(self) -> str:
        """Return it as one, however long that takes."""
        return "".join(self.parts)


def beginning(text: str | Pieces) -> str:
    """Return the first piece; all of a plain string."""
    return text if isinstance(text, str) else text.parts[0]
