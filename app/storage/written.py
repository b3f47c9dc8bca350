"""What was just written for a content, and how it appears only if the content has a name.

Does not know where it is written.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")

WhileNamed = Callable[[str, Callable[[], None]], Awaitable[bool]]
"""Runs an action if a content has a name, and returns whether it has one."""


class NamesAway(ConnectionError):
    """Whether a content has a name cannot be asked now. Who keeps the names has reported that."""


class Run(Protocol):
    """Runs slow work on another thread."""

    def __call__(self, job: Callable[[], T], /) -> Awaitable[T]:
        """Return what the job returns."""


class Written(Protocol):
    """Something whole that was written: a file beside its final path, or an object that is in its place already."""

    def appear(self) -> None:
        """Put it into its place."""

    def settle(self) -> None:
        """Make it survive a power cut too, after `appear`. Raises OSError."""

    def discard(self) -> None:
        """Remove it."""


def nothing() -> None:
    """Do nothing: for whoever asks only whether a content has a name."""


async def appeared(
    content: str,
    write: Callable[[], Written | None],
    *,
    while_named: WhileNamed,
    run: Run,
) -> tuple[bool, Written | None]:
    """Write something and let it appear. Returns whether it is there now, and what was written for that.

    `write` returns None if it is there already. Raises OSError and sqlite3.Error.
    """
    while (made := await run(write)) is not None:
        is_named = False
        try:
            is_named = await while_named(content, made.appear)
        finally:
            if not is_named:
                await run(made.discard)
        if is_named:
            return True, made
        # Where what is written can be seen at once, another server may have found it and written nothing itself.
        if not await while_named(content, nothing):
            return False, None
    return True, None
