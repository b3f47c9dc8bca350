"""What settings and clients would do again, and a process of tests does once: 3 and 20 ms of nearly every test.

Does not know the tests.
"""

import os
import ssl
from functools import cache
from typing import Any

import httpx
from httpx._transports import default
from pydantic_settings import EnvSettingsSource

_look = EnvSettingsSource.__call__


def do_once() -> None:
    """Look for settings in the environment only if it has one, and read the authorities that httpx trusts once."""
    EnvSettingsSource.__call__ = _variables  # type: ignore[method-assign]
    default.create_ssl_context = _context  # type: ignore[attr-defined]


def _variables(source: EnvSettingsSource) -> dict[str, Any]:
    prefix = source.env_prefix.upper()
    return _look(source) if any(name.upper().startswith(prefix) for name in os.environ) else {}


def _context(*, verify: Any, cert: Any, trust_env: bool) -> ssl.SSLContext:
    if verify is not True or cert is not None:
        return httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
    named = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")) if trust_env else None
    return _trusting(named)


@cache
def _trusting(named: tuple[str | None, str | None] | None) -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=named is not None)
