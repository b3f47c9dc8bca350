"""What a door is: the endpoints of one tool, the form of its errors, and where it puts its key.

Does not know the tools.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI

from app.middleware.access import Scope
from app.middleware.callers import password_of, sent_as_key


@dataclass(frozen=True, slots=True)
class Fault:
    """An error of ours, before it gets the form of a tool."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Door:
    """The endpoints of one tool."""

    name: str
    """In SAM2_DOORS."""
    router: APIRouter
    paths: tuple[str, ...]
    """Its paths. One that ends with a slash stands for all below it."""
    error: Callable[[Fault], object]
    """Makes the JSON body of an error."""
    posts: frozenset[str] = frozenset()
    """Its paths of which only POST is its own, because GET belongs to something else."""
    free: frozenset[str] = frozenset()
    """Paths that are called without a key, or whose handlers look for it in the body (requests.admit)."""
    key: Callable[[Scope], str] = lambda _: ""
    """Finds the key of a request where only this tool puts it; "" if it is not there."""

    def owns(self, path: str, method: str = "GET") -> bool:
        """Whether requests to a path with a method belong to this door."""
        if method == "POST" and path in self.posts:
            return True
        return any(path == own or (own.endswith("/") and path.startswith(own)) for own in self.paths)


class Doors:
    """The doors that are open."""

    def __init__(self, doors: Sequence[Door]) -> None:
        self._doors = tuple(doors)
        self.free = frozenset(path for door in doors for path in door.free)
        """Paths of all doors that need no key in the head of a request."""

    @asynccontextmanager
    async def serving(self, app: FastAPI) -> AsyncIterator[None]:
        """Hold what a door needs while an application serves."""
        async with AsyncExitStack() as held:
            for router in self.routers:
                await held.enter_async_context(router.lifespan_context(app))
            yield

    @property
    def routers(self) -> list[APIRouter]:
        """The endpoints of all doors."""
        return [door.router for door in self._doors]

    def of(self, path: str, method: str = "GET") -> Door | None:
        """Return the door that requests to a path with a method belong to."""
        return next((door for door in self._doors if door.owns(path, method)), None)

    def key_of(self, scope: Scope) -> str:
        """Return the key that a request carries in its head, or ""."""
        door = self.of(scope["path"], scope["method"])
        own = door.key(scope) if door is not None else ""
        return sent_as_key(scope) or own or password_of(scope)
