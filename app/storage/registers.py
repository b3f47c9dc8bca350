"""What the service asks of a register of names, whether it is a file of this machine or a database of many servers.

Does not know how either works.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from app.storage.disk_trouble import DiskTrouble
from app.storage.pages import Placed
from app.storage.register import Register
from app.storage.register_file import ImageName

if TYPE_CHECKING:  # it imports PostgreSQL's driver
    from app.storage.sharing import Sharing


class NameRegister(Protocol):
    """Names by tenant. `find` and the other reads return at once; see register.py and shared_register.py."""

    async def open(self) -> None:
        """Begin."""

    async def close(self) -> None:
        """Write what is pending."""

    def now(self) -> float:
        """Return the time by which names have their ages: that of all servers."""

    def find(self, image_id: str, *, tenant: str) -> ImageName | None:
        """Look up a name; None if it is unknown, as far as this server knows, or expired."""

    async def catch_up(self, *, waits: bool = True) -> None:
        """See to it that `find` knows what other servers did. Raises NamesUnreachable, unless it need not wait."""

    async def check_arrived(self, content: str) -> None:
        """Raise NamesUnreachable if a content may not be written yet because names could not be asked for."""

    def use(self, name: ImageName) -> None:
        """Record a use of a name."""

    def used(self, name: ImageName) -> float:
        """Return when a name was last used."""

    def is_named(self, content: str) -> bool:
        """Whether any tenant has a name for a content."""

    def contents(self, *, tenant: str, beginning: str) -> set[str]:
        """Return the contents of a tenant's names that begin like this."""

    def newest(self, *, tenant: str, limit: int, after: Placed | None) -> list[ImageName]:
        """Return at most `limit` names that follow `after`, newest first."""

    async def add(self, name: ImageName, *, replace: bool) -> frozenset[str]:
        """Add a name. Returns the contents that lost their last name. Raises ImageIdConflict, NamesUnreachable."""

    async def remove(self, image_id: str, *, tenant: str) -> frozenset[str]:
        """Remove a name. Returns the contents that lost their last name by it. Raises NamesUnreachable."""

    async def while_named(self, content: str, action: Callable[[], None]) -> bool:
        """Run an action if a content has a name. Returns whether it has one. Raises OSError and sqlite3.Error."""

    async def unnamed(self, contents: Collection[str]) -> set[str]:
        """Return those contents that have no name."""

    async def expire(self) -> frozenset[str]:
        """Remove names that are too old or too many. Returns the contents that lost their last name by it."""

    async def changed_elsewhere(self) -> bool:
        """Whether another server has written since the last call."""

    async def tend(self) -> bool:
        """Do the periodic maintenance. True if the names were lost, and written again."""


def register_in(
    sharing: "Sharing | None",
    kind: Literal["image", "video"],
    folder: Path | None,
    *,
    ttl_s: float,
    trouble: DiskTrouble | None,
    on_unnamed: Callable[[str], None],
) -> NameRegister:
    """Return the register that servers share, if they do; otherwise one in a folder, or in memory without one."""
    if sharing is not None:
        return sharing.register(kind, ttl_s=ttl_s, on_unnamed=on_unnamed)
    return Register(folder, ttl_s=ttl_s, trouble=trouble, on_unnamed=on_unnamed)
