"""SQLite's files that are damaged, or no SQLite files. Does not know what they hold."""

import sqlite3
from pathlib import Path


def move_aside(path: Path) -> Path:
    """Rename a file that is no register or a damaged one. Returns its new path. Raises OSError."""
    aside = path.with_name(f"{path.name}.unreadable")
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file's content is damaged, which no later attempt will find mended."""
    code = getattr(error, "sqlite_errorcode", None)  # missing if the error is not SQLite's own
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
