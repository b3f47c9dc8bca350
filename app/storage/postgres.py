"""The PostgreSQL that several servers share: connections, made again after a loss, and jobs that wait for them.

Imported only where SAM2_REGISTER_URL is set. Does not know what is kept there.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.names_errors import NamesUnreachable
from app.scheduling.deadlines import left_s
from app.storage.postgres_line import DEFAULTS, JOB_S, MEET_AGAIN, OURS, Connection, Hopeless, Line
from app.storage.postgres_options import wrong_option

T = TypeVar("T")

log = logging.getLogger(__name__)

LOCKED_S = 2 * JOB_S
"""Longest time that a job begins again because of a lock. A server holds none for longer than JOB_S."""
RETRY_S = 0.25
"""Before the first try to connect again; doubled for each further one, up to MOST_RETRY_S."""
MOST_RETRY_S = 2.0
QUIET_S = 60.0
"""Between two log lines about the same trouble."""
MARGIN_S = 0.5
"""A request is told in words so long before its deadline, which says nothing of PostgreSQL."""
RETRY_AFTER_S = 5
APART_S = 70.0
"""Troubles that begin sooner after one another are one: servers are still behind with what had to wait."""
EITHER_SIDE_S = 5.0
"""Before and after a trouble, which servers notice at different times: what is named is written a moment later."""


class UnusableDatabase(Exception):
    """The database is not one for this server, which no later attempt will find changed. The message says why."""


class Postgres:
    """Runs jobs on a few connections. `prepare` gets each new connection, and may raise UnusableDatabase.

    Belongs to the event loop. A job is a function of a connection in autocommit; it runs on a thread, and is run
    again if its connection is lost, so it must bear that.
    """

    def __init__(self, url: str, *, prepare: Callable[[Connection], None]) -> None:
        """Create it; `open` connects. Raises ValueError for a URL that libpq does not take."""
        try:
            given = conninfo_to_dict(url)
            conninfo = make_conninfo("", **(DEFAULTS | given))
        except psycopg.ProgrammingError:
            # Its message quotes the URL, with the password in it.
            raise ValueError("SAM2_REGISTER_URL: libpq cannot read this URL; see docs/scaling.md.") from None
        if wrong := wrong_option(given):
            raise ValueError(
                f"SAM2_REGISTER_URL: libpq does not take this URL: {wrong}. Write what is special in URLs, as in a "
                "password, with percent signs: / as %2F, @ as %40."
            )
        self.place = f"{given.get('host', 'localhost')}:{given.get('port', 5432)}/{given.get('dbname', '')}"
        """Where it is, for messages: without the user and the password."""
        self._secret = str(given.get("password") or "")
        self.ordered = Line(conninfo, prepare)
        """For what has an order: the changes of names and of tracks."""
        self._others = (Line(conninfo, prepare), Line(conninfo, prepare))
        self._may_try = False
        self._may_go_on = asyncio.Event()
        """Set where nobody should wait: it may be tried, or it will not be."""
        self._is_draining = False
        self._probing: asyncio.Task[None] | None = None
        self._since: float | None = None
        self._answered = self._answered_before = monotonic()  # when it last did, and before the last trouble
        self._back = float("-inf")
        self._reason = ""
        self._last_logged = float("-inf")
        self._is_logged = False  # since the trouble began
        self._is_read_only = False

    @property
    def problem(self) -> str:
        """What is wrong, in a sentence; empty if nothing is."""
        if self._since is None:
            return ""
        return (
            f"PostgreSQL at {self.place} cannot be used for {monotonic() - self._since:.0f} s: {self._reason}"
        )

    async def open(self) -> None:
        """Connect. If that fails, go on trying: the database may start later. Raises UnusableDatabase."""
        try:
            await self.ordered.run(lambda _: None)
        except UnusableDatabase as error:
            what = f"SAM2_REGISTER_URL: PostgreSQL at {self.place} cannot be used: {error}"
            raise UnusableDatabase(what) from error
        except psycopg.Error as error:
            self._lost(error)
        else:
            self._try_again()

    def drain(self) -> None:
        """Let no request wait any more for a database that cannot be used: the server stops."""
        self._is_draining = True
        self._may_go_on.set()

    async def close(self) -> None:
        """Close the connections."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        for line in (self.ordered, *self._others):
            await line.close()

    async def reachable(self, *, patience_s: float) -> None:
        """Wait until it makes sense to try. Raises NamesUnreachable."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._may_go_on.wait()
        self._check()

    def held_up(self, ago_s: float, *, behind_s: float) -> bool:
        """Whether what was named so many seconds ago may not be written yet, for this trouble or the last one.

        `behind_s` is the time after a trouble until each server has written what had to wait.
        """
        now = monotonic()
        named_at = now - ago_s
        if named_at < self._answered_before - EITHER_SIDE_S:
            return False
        return self._since is not None or (
            now < self._back + behind_s and named_at < self._back + EITHER_SIDE_S
        )

    def unreachable(self) -> NamesUnreachable:
        """Return the error of a request that cannot be answered without the database."""
        what = "The database of names (SAM2_REGISTER_URL) cannot be reached, and this request needs it. "
        what += "Pictures that this server knows can be used meanwhile. Try again later."
        return NamesUnreachable(what, retry_after_s=RETRY_AFTER_S)

    async def once(self, job: Callable[[Connection], T], *, in_order: bool = False) -> T:
        """Run a job. Raises NamesUnreachable if the database cannot be used."""
        self._check()
        line = self.ordered if in_order else min(self._others, key=lambda each: each.waiting)
        is_second = False
        began = monotonic()
        while True:
            made = line.made
            try:
                done = await line.run(job)
            except psycopg.errors.LockNotAvailable as error:
                if monotonic() - began < LOCKED_S:
                    continue
                self._lost(error)  # somebody else's lock, who may be away
                raise self.unreachable() from error
            except MEET_AGAIN:
                continue
            except OURS:
                raise
            except (psycopg.Error, UnusableDatabase) as error:
                is_old = made == line.made > 0 and not isinstance(error, Hopeless)
                if is_old and not is_second:  # a new connection may work
                    is_second = True
                    continue
                self._lost(error)
                raise self.unreachable() from error
            self._over()
            return done

    async def patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeat what raises NamesUnreachable as long as the deadline of the request allows, and then raise it."""
        while True:
            await self.reachable(patience_s=patience_s())
            try:
                async with asyncio.timeout(patience_s() or None):
                    return await attempt()
            except TimeoutError as error:
                raise self.unreachable() from error
            except NamesUnreachable:
                if patience_s() <= 0:
                    raise

    def explain(self, error: Exception) -> str:
        """Return an error's text in one line, without the password."""
        text = " ".join(str(error).split())
        return text.replace(self._secret, "***") if self._secret else text

    def _check(self) -> None:
        if not self._may_try:
            raise self.unreachable()

    def _try_again(self) -> None:
        self._may_try = True
        self._may_go_on.set()

    def _lost(self, error: Exception) -> None:
        self._is_read_only = isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
        self._may_try = False
        if not self._is_draining:
            self._may_go_on.clear()
        self._reason = self.explain(error)
        now = monotonic()
        if self._since is None:
            if now - self._back > APART_S:
                self._answered_before = self._answered
            self._since = now
        if now - self._last_logged >= QUIET_S:
            self._last_logged, self._is_logged = now, True
            log.error(
                "%s. Known pictures are served, new names wait. The server goes on trying.",
                self.problem,
            )
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())

    def _over(self) -> None:
        if self._since is None or self._is_read_only:
            self._answered = monotonic()
            return  # what reads works while what writes fails
        if self._is_logged:
            log.warning("PostgreSQL at %s works again, after %.0f s.", self.place, monotonic() - self._since)
        self._answered = self._back = monotonic()
        self._since, self._is_logged = None, False

    async def _probe(self) -> None:
        pause_s = RETRY_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_RETRY_S)
            try:
                may_write = await self.ordered.run(_may_write)
            except (psycopg.Error, UnusableDatabase) as error:
                self._reason = self.explain(error)
                continue
            self._try_again()
            if not self._is_read_only:
                return
            if may_write:
                self._is_read_only = False
                self._over()
                return
            pause_s = RETRY_S  # requests that read wait for this after each that writes


def _may_write(connection: Connection) -> bool:
    [(is_read_only,)] = connection.execute("SHOW transaction_read_only").fetchall()
    return str(is_read_only) == "off"


def patience_s() -> float:
    """Return how long the request that asks may wait for the database; 0 for what is no request."""
    left = left_s()
    return max(0.0, left - MARGIN_S) if left != float("inf") else 0.0
