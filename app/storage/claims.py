"""Names that are about to be given, so that a DELETE wins over the upload that it meets.

Belongs to the event loop. Does not know what is named.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import ServiceError
from app.storage.register_file import Key


class Claim:
    """A name that is about to be given. If somebody deletes it before that, `deleted` is done."""

    def __init__(self, name: str, *, tenant: str, explain: Callable[[str], ServiceError]) -> None:
        self.name, self.tenant = name, tenant
        self.deleted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._explain = explain

    def check(self) -> None:
        """Raise an error if the name was deleted."""
        if self.deleted.done():
            raise self._explain(self.name)


class Claims:
    """All claims of one register. `explain` makes the error for a name that was deleted while it was claimed."""

    def __init__(self, explain: Callable[[str], ServiceError]) -> None:
        self._explain = explain
        self._claims: defaultdict[Key, set[Claim]] = defaultdict(set)

    def __contains__(self, key: Key) -> bool:
        """Whether somebody claims a name."""
        return key in self._claims

    @contextmanager
    def claim(self, name: str, *, tenant: str) -> Iterator[Claim]:
        """Announce that a name will be given, so that `delete` finds it."""
        key, claim = Key(tenant, name), Claim(name, tenant=tenant, explain=self._explain)
        self._claims[key].add(claim)
        try:
            yield claim
        finally:
            self._claims[key].discard(claim)
            if not self._claims[key]:
                del self._claims[key]

    def delete(self, name: str, *, tenant: str) -> None:
        """Tell all who claim a name that it is deleted."""
        for claim in self._claims.get(Key(tenant, name), ()):
            if not claim.deleted.done():
                claim.deleted.set_result(None)
