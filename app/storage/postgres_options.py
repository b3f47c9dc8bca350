"""Whether libpq takes the options of a connection, found out without connecting to anything.

A port of five nines fails each time, like a database that is away; but no later attempt will find it changed.
"""

import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo, timeout_from_conninfo
from psycopg.pq import PGconn

_NOWHERE = "/dev/null"
"""A folder of Unix sockets that cannot be one, so that libpq fails at once after it has checked the options."""


def wrong_option(given: Mapping[str, Any]) -> str:
    """Return what libpq says is wrong, without the values, which may be a part of a password; empty if nothing."""
    hosts = str(given.get("host") or given.get("hostaddr") or "").split(",")
    trial = {**given, "host": ",".join(_NOWHERE for _ in hosts)}
    trial.pop("hostaddr", None)
    try:
        timeout_from_conninfo(trial)
    except psycopg.ProgrammingError:
        return "bad value for connect_timeout"
    connection = PGconn.connect_start(make_conninfo("", **trial).encode())
    try:
        message = " ".join(connection.get_error_message().split())
    finally:
        connection.finish()
    if not re.match("invalid |could not match ", message):
        return ""  # that nothing listens there, or what is wrong with such sockets alone
    return re.sub(r'"([^"]*)"', lambda found: found[0] if found[1] in given else "(...)", message)
