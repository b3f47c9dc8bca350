"""A real PostgreSQL for tests, in a folder and on a port of its own: started once for all tests of a process.

Debian's package is enough; its own database is not used. PostgreSQL refuses to run as root, so root gives the
folder to the user `postgres`, or to `nobody`.
"""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.server import free_port

_START_S = 60


def programs() -> Path | None:
    """Return the folder with initdb and postgres; None if PostgreSQL is not installed."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


def skip_or_fail() -> None:
    """Skip a test without PostgreSQL; where CI has installed its tools, fail it."""
    reason = "PostgreSQL is not installed; on Debian: apt-get install postgresql"
    if os.environ.get("CI_TOOLS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


class PostgresServer:
    """A PostgreSQL in a folder. Its databases survive `kill` and `stop`."""

    def __init__(self, folder: Path, bin_: Path) -> None:
        self._bin, self._data, self._log = bin_, folder / "data", folder / "log"
        self._user = _other_user()
        self.port = free_port()
        self._numbers = count()
        folder.chmod(0o755)
        self._data.mkdir()
        if self._user is not None:
            shutil.chown(self._data, *self._user)
        options = ["-D", self._data, "--username=sam2", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        subprocess.run(
            self._as_user(bin_ / "initdb", *options, "--no-locale"), check=True, capture_output=True
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        flags = ["-p", str(self.port), "-h", "127.0.0.1", "-k", "", "-F", "-c", "max_connections=60"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._as_user(self._bin / "postgres", "-D", self._data, *flags), stdout=log, stderr=log
            )
        wait = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        for _ in range(_START_S * 20):
            if subprocess.run(wait).returncode == 0:
                return
            try:
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            break
        raise RuntimeError(f"PostgreSQL does not start:\n{self._log.read_text()}")

    def kill(self) -> None:
        """End it at once, with all connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)  # of its own processes none stays, as with kill -9
        self._process.wait(_START_S)

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        import psycopg  # here, because conftest.py imports this file, also where nothing of PostgreSQL is tested

        name = f"test{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://sam2@127.0.0.1:{self.port}/{database}"

    def freeze(self) -> None:
        """Stop all of its processes where they stand: connections stay, and nothing is answered."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        own = self._process.pid
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, parent = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if own in (pid, parent):
                with suppress(ProcessLookupError):  # it ended a moment ago
                    os.kill(pid, number)

    def _as_user(self, *command: object) -> list[str]:
        words = list(map(str, command))
        if self._user is None:
            return words
        uid, gid = self._user
        return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *words]


def _other_user() -> tuple[int, int] | None:
    if os.getuid():
        return None
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwnam("nobody")
    return user.pw_uid, user.pw_gid


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL that runs until the block ends."""
    if (bin_ := programs()) is None:
        skip_or_fail()
    assert bin_ is not None
    with TemporaryDirectory(prefix="sam2-postgres-") as folder:  # other users cannot enter pytest's folders
        server = PostgresServer(Path(folder), bin_)
        server.start()
        try:
            yield server
        finally:
            server.thaw()
            server.kill()
