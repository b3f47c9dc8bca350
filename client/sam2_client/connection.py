"""Connection options of both clients: address, key, timeouts.

Does not know about requests.
"""

from typing import TypedDict

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
    """Return the options for an address and a key. Raises ValueError if either is not valid.

    `http://` may be omitted. Whitespace around a key, such as a line end, is removed.
    """
    try:
        base_url = httpx.URL(url if "://" in url else f"http://{url}")
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not the address of a server: {error}") from error
    if base_url.scheme not in ("http", "https") or not base_url.host:
        raise ValueError(f"{url!r} is not the address of a server. Example: {DEFAULT_URL}")
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
        "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_S)),
    }
