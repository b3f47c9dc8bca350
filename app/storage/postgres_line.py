"""One connection to a PostgreSQL, made again when it is lost, and the thread on which its jobs run one by one.

Does not know what becomes of a job that fails.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import psycopg

T = TypeVar("T")
Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

CONNECT_S = 5
STATEMENT_S = 5
LOCK_S = 3
"""Shorter than STATEMENT_S, which would otherwise end the wait as a failure of the database."""
JOB_S = 10.0
"""Longest time for a job. After it the connection is cut: a server that is frozen, or a network, says nothing."""

DEFAULTS: dict[str, Any] = {
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
MEET_AGAIN = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
)
"""Two servers met; one of them begins again."""
OURS = (psycopg.DataError, psycopg.IntegrityError)
"""A job that would fail each time, so nobody waits for it."""


class Hopeless(psycopg.OperationalError):
    """A job took too long and was cut, or was not tried after such a failure. A new connection is no better."""


class Line:
    """One connection, made when it is needed, and the thread that uses it."""

    def __init__(self, conninfo: str, prepare: Callable[[Connection], None]) -> None:
        self._conninfo, self._prepare = conninfo, prepare
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="postgres")
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self._is_cut = False
        self._failures, self._why = 0, ""
        """Those that each job that waits would meet too, for seconds."""
        self.waiting = 0
        """Jobs that run or wait."""
        self.made = 0
        """Connections so far."""

    async def run(self, job: Callable[[Connection], T]) -> T:
        """Run a job on the thread, to its end even if the caller goes away. Raises psycopg.Error."""
        self.waiting += 1
        running = asyncio.create_task(self._in_turn(job, self._failures))
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

    async def _in_turn(self, job: Callable[[Connection], T], failures: int) -> T:
        loop = asyncio.get_running_loop()
        async with self._turn:
            if self._failures > failures:
                raise Hopeless(self._why)
            self._is_cut = False
            cut = loop.call_later(JOB_S, self._cut)
            try:
                return await loop.run_in_executor(self._thread, self._work, job)
            except psycopg.Error as error:
                if not self._is_cut:
                    raise
                self._fails(f"what it was asked for took longer than {JOB_S:g} s")
                raise Hopeless(self._why) from error
            finally:
                cut.cancel()

    def _work(self, job: Callable[[Connection], T]) -> T:
        connection = self._connection or self._connect()
        try:
            return job(connection)
        except psycopg.Error as error:
            # Whatever the error left behind, the next job begins with a new connection.
            if not isinstance(error, (*MEET_AGAIN, *OURS)) or connection.closed:
                connection.close()
                self._connection = None
            raise

    def _connect(self) -> Connection:
        try:
            # Prepared statements do not survive a pooler such as PgBouncer.
            connection = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            self._fails(str(error))
            raise
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

    def _fails(self, why: str) -> None:
        self._failures, self._why = self._failures + 1, why

    def _cut(self) -> None:
        """Make the thread's read end, on the event loop: libpq itself waits for ever."""
        connection = self._connection
        if connection is None:
            return  # libpq is connecting, for which it has a limit
        self._is_cut = True
        with (
            suppress(OSError, psycopg.Error),  # it has ended by itself
            socket.socket(fileno=socket.dup(connection.fileno())) as ours,
        ):
            ours.shutdown(socket.SHUT_RDWR)
