"""Connection options of both clients: address, key, timeouts, and what the environment says of proxies.

Does not know about requests.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, TypedDict
from urllib.request import getproxies, proxy_bypass

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

    `http://` may be omitted. Whitespace around an address and a key, such as a line end, is removed.
    """
    url = url.strip()
    try:
        base_url = httpx.URL(url if "://" in url else f"http://{url}")
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not the address of a server: {error}") from error
    if base_url.scheme not in ("http", "https") or not base_url.host:
        raise ValueError(f"{url!r} is not the address of a server. Example: {DEFAULT_URL}")
    if base_url.port is not None and not 0 < base_url.port < 65536:  # the system would take it modulo 65536
        raise ValueError(f"{url!r} is not the address of a server: ports are 1 to 65535")
    if base_url.query or base_url.fragment:  # paths would be added behind it
        raise ValueError(f"{url!r} is not the address of a server: leave out what follows ? or #")
    limit_s = _seconds(timeout)
    headers = {
        "User-Agent": f"sam2-client/{__version__}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }
    if key := (api_key or "").strip():
        if not (key.isascii() and key.isprintable()):
            raise ValueError("the key has characters that an HTTP header cannot contain: use printable ASCII")
        if base_url.userinfo:  # httpx sends it as Authorization: it is the login of a proxy
            headers["X-API-Key"] = key
        else:
            headers["Authorization"] = f"Bearer {key}"
    return {
        "base_url": base_url,
        "headers": headers,
        "timeout": httpx.Timeout(limit_s, connect=min(limit_s, _CONNECT_S)),
    }


@contextmanager
def environment_in_words() -> Iterator[None]:
    """Raise ValueError, with the variable's name, where httpx fails at what the environment says."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"the certificates in SSL_CERT_FILE cannot be read: {error}") from error
    except (ImportError, httpx.InvalidURL, ValueError) as error:
        named = ", ".join(f"{scheme.upper()}_PROXY" for scheme in getproxies())
        if not named:
            raise
        raise ValueError(
            f"cannot use {named}: {error}. Proxies begin with http:// or, with 'httpx[socks]' installed, "
            "socks5://; NO_PROXY has hosts without brackets"
        ) from error


def proxy_hint(url: httpx.URL) -> str:
    """Return a sentence that names the variable by which requests to an address use a proxy, or ""."""
    proxies = getproxies()
    scheme = next((each for each in (url.scheme, "all") if proxies.get(each)), None)
    if scheme is None or proxy_bypass(url.host):
        return ""
    return f" {scheme.upper()}_PROXY is set: correct it, or add {url.host} to NO_PROXY."


def _seconds(timeout: Any) -> float:
    is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if not is_number or not 0 < (seconds := float(timeout)) <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout is {timeout!r}, but must be a number of seconds above 0, and finite")
    return seconds
