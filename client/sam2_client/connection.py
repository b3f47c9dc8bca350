"""Connection options of both clients: address, key, timeouts.

Does not know about requests.
"""

import threading
from numbers import Real
from typing import Any, TypedDict

import httpx

from sam2_client.version import __version__

DEFAULT_URL = "http://127.0.0.1:8000"
_CONNECT_S = 5.0


class Options(TypedDict):
    """Options of both httpx.Client and httpx.AsyncClient."""

    base_url: httpx.URL
    headers: dict[str, str]
    timeout: httpx.Timeout


def options(url: str, api_key: str | None, timeout: float) -> Options:
    """Return the options for an address, a key and a limit in seconds. Raises ValueError if one is not valid.

    `http://` may be omitted. Whitespace around a key, such as a line end, is removed.
    """
    try:
        base_url = httpx.URL(url if "://" in url else f"http://{url}")
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not the address of a server: {error}") from error
    if base_url.scheme not in ("http", "https") or not base_url.host:
        raise ValueError(f"{url!r} is not the address of a server. Example: {DEFAULT_URL}")
    limit_s = _seconds(timeout)
    headers = {
        "User-Agent": f"sam2-client/{__version__}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }
    if key := (api_key or "").strip():
        if not (key.isascii() and key.isprintable()):
            raise ValueError("the key has characters that an HTTP header cannot contain: use printable ASCII")
        headers["Authorization"] = f"Bearer {key}"
    return {
        "base_url": base_url,
        "headers": headers,
        "timeout": httpx.Timeout(limit_s, connect=min(limit_s, _CONNECT_S)),
    }


def _seconds(timeout: Any) -> float:
    is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if not is_number or not 0 < (seconds := float(timeout)) <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout is {timeout!r}, but must be a number of seconds above 0, and finite")
    return seconds
