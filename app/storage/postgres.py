"""The PostgreSQL that several servers share: connections, made again after a loss, and jobs that wait for them.

Imported only where SAM2_REGISTER_URL is set. Does not know what is kept there.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.names_errors import NamesUnreachable
from app.scheduling.deadlines import left_s

T = TypeVar("T")
Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

log = logging.getLogger(__name__)

CONNECT_S = 5
STATEMENT_S = 5
LOCK_S = 3
"""Shorter than STATEMENT_S, which would otherwise end the wait as a failure of the database."""
JOB_S = 10.0
"""Longest time for a job. After it the connection is cut: a server that is frozen, or a network, says nothing."""
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

_DEFAULTS: dict[str, Any] = {
    "connect_timeout": CONNECT_S,
    "fallback_application_name": "sam2-serve",
    "client_encoding": "utf8",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_SESSION = {
    "statement_timeout": STATEMENT_S * 1000,
    "lock_timeout": LOCK_S * 1000,
    # Locks of a server that was stopped in the middle of a transaction.
    "idle_in_transaction_session_timeout": int(JOB_S) * 1000,
}
_MEET_AGAIN = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
)
"""Two servers met; one of them begins again."""
_OURS = (psycopg.DataError, psycopg.IntegrityError)
"""A job that would fail each time, so nobody waits for it."""


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
            conninfo = make_conninfo("", **(_DEFAULTS | given))
        except psycopg.ProgrammingError:
            # Its message quotes the URL, with the password in it.
            raise ValueError("SAM2_REGISTER_URL: libpq cannot read this URL; see docs/scaling.md.") from None
        self.place = f"{given.get('host', 'localhost')}:{given.get('port', 5432)}/{given.get('dbname', '')}"
        """Where it is, for messages: without the user and the password."""
        self._secret = str(given.get("password") or "")
        self.names = Line(conninfo, prepare)
        """For what has an order: the changes of names."""
        self._others = (Line(conninfo, prepare), Line(conninfo, prepare))
        self._may_try = asyncio.Event()
        self._probing: asyncio.Task[None] | None = None
        self._since: float | None = None
        self._reason = ""
        self._last_said = float("-inf")
        self._is_said = False  # since the trouble began

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
            await self.names.run(lambda _: None)
        except UnusableDatabase as error:
            what = f"SAM2_REGISTER_URL: PostgreSQL at {self.place} cannot be used: {error}"
            raise UnusableDatabase(what) from error
        except psycopg.Error as error:
            self._lost(error)
        else:
            self._may_try.set()

    async def close(self) -> None:
        """Close the connections."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        for line in (self.names, *self._others):
            await line.close()

    async def reachable(self, *, patience_s: float) -> None:
        """Wait until it makes sense to try. Raises NamesUnreachable."""
        if self._may_try.is_set():
            return
        try:
            async with asyncio.timeout(max(0.0, patience_s)):
                await self._may_try.wait()
        except TimeoutError as error:
            raise self.unreachable() from error

    def unreachable(self) -> NamesUnreachable:
        """Return the error of a request that cannot be answered without the database."""
        what = "The database of names (SAM2_REGISTER_URL) cannot be reached, and this request needs it. "
        what += "Pictures that this server knows can be used meanwhile. Try again later."
        return NamesUnreachable(what, retry_after_s=RETRY_AFTER_S)

    async def once(self, job: Callable[[Connection], T], *, in_order: bool = False) -> T:
        """Run a job. Raises NamesUnreachable if the database cannot be used."""
        if not self._may_try.is_set():
            raise self.unreachable()
        line = self.names if in_order else min(self._others, key=lambda each: each.waiting)
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
            except _MEET_AGAIN:
                continue
            except _OURS:
                raise
            except (psycopg.Error, UnusableDatabase) as error:
                if made == line.made > 0 and not is_second:  # its connection was old; a new one may work
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

    def said(self, error: Exception) -> str:
        """Return an error's text in one line, without the password."""
        text = " ".join(str(error).split())
        return text.replace(self._secret, "***") if self._secret else text

    def _lost(self, error: Exception) -> None:
        self._may_try.clear()
        self._reason = self.said(error)
        now = monotonic()
        if self._since is None:
            self._since = now
        if now - self._last_said >= QUIET_S:
            self._last_said, self._is_said = now, True
            log.error(
                "%s. Known pictures are served, new names wait. The server goes on trying.",
                self.problem,
            )
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())

    def _over(self) -> None:
        if self._since is None:
            return
        if self._is_said:  # one that is read-only works and fails many times a second
            log.warning("PostgreSQL at %s works again, after %.0f s.", self.place, monotonic() - self._since)
        self._since, self._is_said = None, False

    async def _probe(self) -> None:
        pause_s = RETRY_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_RETRY_S)
            try:
                await self.names.run(lambda connection: connection.execute("SELECT 1"))
            except (psycopg.Error, UnusableDatabase) as error:
                self._reason = self.said(error)
            else:
                self._may_try.set()
                return


class Line:
    """One connection, made when it is needed, and the thread that uses it."""

    def __init__(self, conninfo: str, prepare: Callable[[Connection], None]) -> None:
        self._conninfo, self._prepare = conninfo, prepare
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="postgres")
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self.waiting = 0
        """Jobs that run or wait."""
        self.made = 0
        """Connections so far."""

    async def run(self, job: Callable[[Connection], T]) -> T:
        """Run a job on the thread, to its end even if the caller goes away. Raises psycopg.Error."""
        self.waiting += 1
        running = asyncio.create_task(self._in_turn(job))
        running.add_done_callback(self._done)
        return await asyncio.shield(running)

    async def close(self) -> None:
        """End the connection and the thread."""
        async with self._turn:
            if self._connection is not None:
                self._connection.close()
        self._thread.shutdown(wait=False)

    def _done(self, running: "asyncio.Task[Any]") -> None:
        self.waiting -= 1
        if not running.cancelled():
            running.exception()  # marks it as retrieved: the caller may be gone

    async def _in_turn(self, job: Callable[[Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        async with self._turn:
            cut = loop.call_later(JOB_S, self._cut)
            try:
                return await loop.run_in_executor(self._thread, self._work, job)
            finally:
                cut.cancel()

    def _work(self, job: Callable[[Connection], T]) -> T:
        connection = self._connection or self._connect()
        try:
            return job(connection)
        except psycopg.Error as error:
            # Whatever the error left behind, the next job begins with a new connection.
            if not isinstance(error, (*_MEET_AGAIN, *_OURS)) or connection.closed:
                connection.close()
                self._connection = None
            raise

    def _connect(self) -> Connection:
        # Prepared statements do not survive a pooler such as PgBouncer.
        connection = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        self._connection = connection  # from here on `_cut` ends what hangs
        try:
            wanted = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SESSION.items())
            connection.execute(f"SELECT {wanted}".encode())
            self._prepare(connection)
        except BaseException:
            connection.close()
            self._connection = None
            raise
        self.made += 1
        return connection

    def _cut(self) -> None:
        """Make the thread's read end, on the event loop: libpq itself waits for ever."""
        connection = self._connection
        if connection is None:
            return  # libpq is connecting, for which it has a limit
        with (
            suppress(OSError, psycopg.Error),  # it has ended by itself
            socket.socket(fileno=socket.dup(connection.fileno())) as ours,
        ):
            ours.shutdown(socket.SHUT_RDWR)


def patience_s() -> float:
    """Return how long the request that asks may wait for the database; 0 for what is no request."""
    left = left_s()
    return max(0.0, left - MARGIN_S) if left != float("inf") else 0.0
