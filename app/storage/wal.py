"""SQLite's write-ahead log, which several servers may switch on at once.

Does not know what a file holds.
"""

import sqlite3
from time import monotonic, sleep


def begin_wal(connection: sqlite3.Connection, *, patience_s: float) -> None:
    """Switch a file to WAL. Waits while another connection does, because SQLite itself does not wait there.

    Raises sqlite3.OperationalError where the file is still busy after `patience_s`, or cannot be written.
    """
    until = monotonic() + patience_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > until:
                raise
            sleep(0.005)
        else:
            return
