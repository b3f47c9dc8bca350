"""A register of images that several servers share, in PostgreSQL: the methods of register.py.

Reads come from a copy of all rows in this process, which takes in what other servers did: each second, and at once
before a name counts as unknown. Changes are transactions; without the database they wait or fail, because a name
must mean the same for all servers. Does not know about embeddings.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from time import monotonic

from app.errors import ImageIdConflict
from app.names_errors import NamesUnreachable
from app.storage.pages import Placed
from app.storage.postgres import Postgres
from app.storage.postgres_line import Connection
from app.storage.register import MOST_NAMES
from app.storage.register_file import Change, ImageName, Key, RegisterFile
from app.storage.shared_changes import forget_removed
from app.storage.shared_clock import SharedClock
from app.storage.shared_names import MOST_AT_ONCE, Asked, SharedNames
from app.storage.written import NamesAway

log = logging.getLogger(__name__)

_FORGET_S = 600.0
"""Between two times that the clock is set, and old removals are forgotten."""

BEHIND_S = {"image": 10.0, "video": 70.0}
"""After a trouble, until each server has written what had to wait for names."""

_USES_AT_ONCE = 5000
"""In one statement, which has 5 s. After an outage a server may have a use of every name to tell."""


class SharedRegister:
    """Names of one kind by tenant. Belongs to the event loop on which `open` is called.

    `on_unnamed` is called on a worker thread for each content that loses its last name, by whatever server: a
    folder may be shared or be this server's own.
    """

    def __init__(
        self,
        postgres: Postgres,
        kind: str,
        *,
        clock: SharedClock,
        ttl_s: float,
        on_unnamed: Callable[[str], None],
    ) -> None:
        """Create a register; `open` reads the names. `ttl_s` 0: names do not expire."""
        self._postgres, self._kind, self._names = postgres, kind, SharedNames(kind)
        self._clock, self._ttl_s, self._on_unnamed = clock, ttl_s, on_unnamed
        self._copy = RegisterFile(None)
        self._seen = -1
        self._read_over = 0  # the connection over which the copy was read, by its number
        self._used: dict[Key, float] = {}
        self._asked: dict[Asked, None] = {}  # in the order in which they came
        self._applying, self._catching_up = asyncio.Lock(), asyncio.Lock()
        self._wanted, self._covered = 0, 0
        self._has_changed = False
        self._gone = set[str]()  # contents that lost their last name elsewhere
        self._forget_at = 0.0

    async def open(self) -> None:
        """Read all names, if the database can be reached."""
        await self._try_to_catch_up()

    async def close(self) -> None:
        """Write what is pending, and let the copy go."""
        await self.tend()
        self._copy.close()

    def now(self) -> float:
        """Return the time by which names have their ages."""
        return self._clock.now()

    def find(self, image_id: str, *, tenant: str) -> ImageName | None:
        """Look up a name as this server knows it; None if it is unknown or expired."""
        name = self._copy.find(Key(tenant, image_id))
        return name if name is not None and name.created >= self._since() else None

    async def catch_up(self, *, waits: bool = True) -> None:
        """Take in what other servers did before this call.

        Without the database, wait for it and raise NamesUnreachable, or, if `waits` is false, do nothing.
        """
        self._wanted += 1
        look = partial(self._catch_up, self._wanted)
        if waits:
            await self._postgres.patiently(look)
            return
        with suppress(NamesUnreachable):
            await look()

    async def check_arrived(self, content: str) -> None:
        """Raise NamesUnreachable if a content that is nowhere was named when no server could write it."""
        await self.catch_up(waits=False)  # whether the database answers
        held_up = partial(self._postgres.held_up, behind_s=BEHIND_S[self._kind])
        names = map(self._copy.find, self._copy.keys_of(content))
        if any(name and held_up(self.now() - name.created) for name in names):
            raise self._postgres.unreachable()

    def use(self, name: ImageName) -> None:
        """Record a use of a name."""
        self._used[name.key] = self.now()

    def used(self, name: ImageName) -> float:
        """Return when a name was last used, as far as this server knows."""
        return self._used.get(name.key, name.used)

    def is_named(self, content: str) -> bool:
        """Whether any tenant has a name for a content."""
        return bool(self._copy.keys_of(content))

    def contents(self, *, tenant: str, beginning: str) -> set[str]:
        """Return the contents of a tenant's names that begin like this."""
        return self._copy.contents(tenant, beginning=beginning)

    def newest(self, *, tenant: str, limit: int, after: Placed | None) -> list[ImageName]:
        """Return at most `limit` names that follow `after`, newest first."""
        return self._copy.newest(tenant, limit=limit, since=self._since(), after=after)

    async def add(self, name: ImageName, *, replace: bool) -> frozenset[str]:
        """Add a name. Returns the contents that lost their last name by it.

        Raises ImageIdConflict, and NamesUnreachable shortly before the deadline of the request.
        """
        return await self._change(Asked(name.key, Change(name, replace=replace)))

    async def remove(self, image_id: str, *, tenant: str) -> frozenset[str]:
        """Remove a name. Returns the contents that lost their last name by it. Raises NamesUnreachable."""
        key = Key(tenant, image_id)
        self._used.pop(key, None)
        return await self._change(Asked(key, Change(None)))

    async def while_named(self, content: str, action: Callable[[], None]) -> bool:
        """Run an action on a thread if a content has a name. Returns whether it has one.

        Raises OSError, without the database NamesAway: who has an action tries again later.
        """
        try:
            return await self._postgres.once(
                lambda connection: self._names.while_named(connection, content, action)
            )
        except NamesUnreachable as error:
            raise NamesAway(error.message) from error

    async def unnamed(self, contents: Collection[str]) -> set[str]:
        """Return those contents that have no name."""
        return await asyncio.to_thread(self._copy.unnamed, contents)

    async def expire(self) -> frozenset[str]:
        """Remove names that are too old or too many. Returns the contents that lost their last name by it."""
        since = self._since()
        if not await asyncio.to_thread(self._copy.has_old, since, most=MOST_NAMES):
            return frozenset()
        gone = set[str]()
        try:
            old = iter(
                await self._postgres.once(
                    lambda connection: self._names.old(connection, since, most=MOST_NAMES), in_order=True
                )
            )
            while some := [Asked(key, Change(None), created) for key, created in islice(old, MOST_AT_ONCE)]:
                await self._postgres.once(partial(self._apply, some), in_order=True)
                gone.update(each.left for each in some if each.left is not None)
        except NamesUnreachable:
            pass  # reported already; the next run goes on
        return frozenset(gone)

    async def changed_elsewhere(self) -> bool:
        """Whether another server was seen to write since the last call."""
        changed, self._has_changed = self._has_changed, False
        return changed

    async def tend(self) -> bool:
        """Take in what other servers did, and write when names were used. False: the names are never lost."""
        if not await self._try_to_catch_up():
            return False
        used, self._used = self._used, {}
        try:
            await self._drop_gone()
            while used:
                some = dict(islice(used.items(), _USES_AT_ONCE))
                await self._postgres.once(partial(self._write_used, some), in_order=True)
                used = {key: moment for key, moment in used.items() if key not in some}
            if monotonic() >= self._forget_at:
                self._forget_at = monotonic() + _FORGET_S
                await self._postgres.once(self._clock.set, in_order=True)
                await self._postgres.once(forget_removed, in_order=True)
        except NamesUnreachable:
            self._used = used | self._used
        return False

    async def _try_to_catch_up(self) -> bool:
        try:
            await self.catch_up()
        except NamesUnreachable:
            return False
        return True

    async def _change(self, asked: Asked) -> frozenset[str]:
        """Have a change applied, with those of other requests. One whose request goes away may still be."""
        self._asked[asked] = None
        try:
            await self._postgres.patiently(partial(self._apply_all, asked))
        finally:
            self._asked.pop(asked, None)
        if asked.is_conflict:
            raise ImageIdConflict.for_id(asked.key.image_id)
        return frozenset() if asked.left is None else frozenset({asked.left})

    async def _apply_all(self, asked: Asked) -> None:
        async with self._applying:
            while not asked.is_done:  # the last holder of the lock may have applied it too
                some = list(islice(self._asked, MOST_AT_ONCE))
                await self._postgres.once(partial(self._apply, some), in_order=True)
                for each in some:
                    self._asked.pop(each, None)

    async def _catch_up(self, wanted: int) -> None:
        async with self._catching_up:
            if self._covered < wanted:  # the last holder of the lock may have begun after this was called
                covers = self._wanted
                while not await self._postgres.once(self._take_in, in_order=True):
                    await self._read_all()
                self._covered = covers

    async def _read_all(self) -> None:
        """Read all rows: the first time, and over a new connection, as the database may be another by then.

        In pages, as many rows take longer than a job may. What changes meanwhile, `_take_in` hears of afterwards.
        """
        over, last, unseen = await self._postgres.once(self._begin_reading, in_order=True)
        put = self._put if unseen else self._fill
        after: Key | None = None
        while rows := await self._postgres.once(partial(self._read_page, after, put), in_order=True):
            unseen.difference_update(row.key for row in rows)
            after = rows[-1].key
        await self._postgres.once(lambda _: self._put([(key, None) for key in unseen]), in_order=True)
        self._seen, self._read_over = last, over

    async def _drop_gone(self) -> None:
        """Remove what this server has of contents that another one took the last name of."""
        while self._gone:
            some = {self._gone.pop() for _ in range(min(len(self._gone), MOST_AT_ONCE))}
            try:
                await self._postgres.once(partial(self._drop, some))
            except NamesUnreachable:
                self._gone.update(some)
                raise

    # On a thread of Postgres.

    def _drop(self, contents: set[str], connection: Connection) -> None:
        self._names.drop_unnamed(connection, contents, self._on_unnamed)

    def _apply(self, asked: list[Asked], connection: Connection) -> None:
        # Some may have been applied for a request that went away before it heard of it.
        asked = [each for each in asked if not each.is_done]
        if not asked:
            return
        number, changed = self._names.apply(
            connection, asked, since=self._since(), on_unnamed=self._on_unnamed
        )
        own = {key: Change(row) for key, row in changed.items()}
        self._copy.apply(own, since=-math.inf, on_unnamed=lambda _: None)
        if number == self._seen + 1:
            self._seen = number
        for each in asked:
            each.is_done = True

    def _write_used(self, used: dict[Key, float], connection: Connection) -> None:
        self._names.use(connection, used)
        self._copy.use(used)

    def _take_in(self, connection: Connection) -> bool:
        """Bring the copy up to date. Returns whether that is done: if not, everything must be read."""
        if self._postgres.ordered.made != self._read_over:
            return False
        seen = self._names.since(connection, self._seen)
        if seen is None:
            return False
        if seen.last != self._seen:
            self._put([(key, None) for key in seen.removed])
            self._put([(row.key, row) for row in seen.rows])
            self._seen = seen.last
        return True

    def _begin_reading(self, connection: Connection) -> tuple[int, int, set[Key]]:
        return self._postgres.ordered.made, self._names.last(connection), self._copy.keys()

    def _read_page(
        self, after: Key | None, put: Callable[[list[tuple[Key, ImageName]]], None], connection: Connection
    ) -> list[ImageName]:
        rows = self._names.page(connection, after)
        put([(row.key, row) for row in rows])
        return rows

    def _fill(self, rows: list[tuple[Key, ImageName]]) -> None:
        """Put rows into a copy that was empty, so that there is nothing to compare."""
        self._copy.fill([row for _, row in rows])

    def _put(self, rows: Sequence[tuple[Key, ImageName | None]]) -> None:
        """Put what other servers wrote into the copy."""
        new = {key: Change(row) for key, row in rows if self._copy.find(key) != row}
        if new:
            self._has_changed = True
            self._copy.apply(new, since=-math.inf, on_unnamed=self._gone.add)

    def _since(self) -> float:
        """Return the time before which names are expired."""
        return self.now() - self._ttl_s if self._ttl_s else -math.inf
