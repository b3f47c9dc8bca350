"""The tables in a PostgreSQL that several servers share. The first server makes them, and a newer one changes them.

Does not know who reads and writes them.
"""

import hashlib

from app.storage.postgres import UnusableDatabase
from app.storage.postgres_line import Connection

# Ids are compared by their bytes ("C"): an index by another order breaks when the system's library changes it.
_STEPS = (
    """
    CREATE TABLE sam2_names (
        kind text COLLATE "C" NOT NULL, tenant text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL,
        content text COLLATE "C" NOT NULL, height integer NOT NULL, width integer NOT NULL, nbytes bigint NOT NULL,
        created double precision NOT NULL, used double precision NOT NULL,
        change bigint NOT NULL,  -- the number of the change that wrote this row
        PRIMARY KEY (kind, tenant, id)
    );
    CREATE INDEX sam2_names_by_content ON sam2_names (kind, content);
    CREATE INDEX sam2_names_by_change ON sam2_names (kind, change);
    CREATE INDEX sam2_names_by_age ON sam2_names (kind, created);
    CREATE TABLE sam2_removed (
        kind text COLLATE "C" NOT NULL, change bigint NOT NULL, tenant text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL, removed timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (kind, change, tenant, id)
    );
    CREATE TABLE sam2_changes (
        kind text COLLATE "C" PRIMARY KEY,
        last bigint NOT NULL,
        forgotten bigint NOT NULL  -- rows of sam2_removed up to this change may be gone
    );
    INSERT INTO sam2_changes VALUES ('image', 0, 0), ('video', 0, 0), ('track', 0, 0);
    CREATE TABLE sam2_tracks (
        tenant text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, change bigint NOT NULL,
        content text NOT NULL,  -- JSON
        PRIMARY KEY (tenant, id)
    );
    CREATE INDEX sam2_tracks_by_change ON sam2_tracks (change);
    CREATE TABLE sam2_rates (share text COLLATE "C" PRIMARY KEY, full_at double precision NOT NULL);
    """,
)
"""What makes each version from the one before. Servers of both run for a while, so a step only adds."""
VERSION = len(_STEPS)

_LOCK = b"SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key"
_LOCK_SHARED = b"SELECT pg_advisory_xact_lock_shared(key) FROM unnest(%s::bigint[]) AS key"


def prepare(connection: Connection) -> None:
    """Make the tables, or bring them up to date. Raises UnusableDatabase."""
    [(encoding,)] = connection.execute("SHOW server_encoding").fetchall()
    if encoding != "UTF8":
        raise UnusableDatabase(f"its encoding is {encoding}; create a database with ENCODING 'UTF8'")
    [(is_there,)] = connection.execute("SELECT to_regclass('sam2_schema') IS NOT NULL").fetchall()
    if is_there and _version(connection) == VERSION:
        return
    with connection.transaction():
        lock(connection, ["schema"])
        # Not by to_regclass: within a transaction it remembers that there was no table.
        connection.execute("CREATE TABLE IF NOT EXISTS sam2_schema (version integer NOT NULL)")
        for step in _STEPS[_version(connection) :]:
            connection.execute(step.encode())
        connection.execute("DELETE FROM sam2_schema")
        connection.execute("INSERT INTO sam2_schema VALUES (%s)", (VERSION,))


def lock(connection: Connection, subjects: list[str], *, shared: bool = False) -> None:
    """Lock these until the transaction ends. Servers that lock several take them in one order."""
    keys = sorted(
        int.from_bytes(hashlib.blake2b(each.encode(), digest_size=8, person=b"sam2").digest(), signed=True)
        for each in subjects
    )
    connection.execute(_LOCK_SHARED if shared else _LOCK, (keys,))


def _version(connection: Connection) -> int:
    rows = connection.execute("SELECT version FROM sam2_schema").fetchall()
    version = int(rows[0][0]) if rows else 0
    if version > VERSION:
        raise UnusableDatabase(
            f"its tables were made by a newer server: version {version}, and this one knows {VERSION}; update it"
        )
    return version
