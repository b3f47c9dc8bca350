"""Checks of settings one by one: names, lists of names, addresses, sizes.

Does not know the settings.
"""

import re
from collections.abc import Collection
from typing import Literal, Protocol, TypeVar

# Any scheme, because browser extensions and desktop tools have their own.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")
_ADDRESS = re.compile(r"https?://[^/\s?#@]+(/[^\s?#]*)?")


class Secret(Protocol):
    """A value that is not shown."""

    def get_secret_value(self) -> str:
        """Return it."""


SecretText = TypeVar("SecretText", bound=Secret)


def split(text: str) -> list[str]:
    """Return the parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def check_origins(text: str) -> str:
    """Return a list of origins, or *. Raises ValueError."""
    for origin in split(text):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is not an origin; use the form https://tool.example, without a path, or *"
            )
    return text


def check_hosts(text: str) -> str:
    """Return a list of host names. Raises ValueError."""
    if not split(text):
        raise ValueError(
            "no host is allowed, so no request would be answered; use auto, *, or a list of names"
        )
    for host in split(text):
        if "/" in host or "://" in host:
            raise ValueError(f"{host!r} is not a host name; use the form tool.example, without a scheme")
    return text


def check_tools(text: str, known: Collection[str]) -> str:
    """Return a list of known tools, or all, or none. Raises ValueError."""
    names = split(text)
    unknown = [name for name in names if name not in known]
    if text.strip() not in ("all", "none") and (unknown or not names):
        raise ValueError(
            f"{', '.join(unknown) or 'nothing'} is not a tool; use all, none or some of {', '.join(known)}"
        )
    return text


def check_model(name: str, known: Collection[str]) -> str:
    """Return the name of a known model. Raises ValueError."""
    if name not in known:
        raise ValueError(f"{name!r} is not a model; choose one of {', '.join(known)}")
    return name


def check_size(value: int | str, least: int) -> int | Literal["auto"]:
    """Return a whole number of MiB, or auto. Raises ValueError."""
    if value == "auto":
        return "auto"
    if not str(value).isdecimal() or int(value) < least:
        raise ValueError(f"must be auto, or a whole number of MiB from {least}")
    return int(value)


def check_address(text: str) -> str:
    """Return the address of a server, without a slash at its end, or "". Raises ValueError."""
    if text and not _ADDRESS.fullmatch(text):
        raise ValueError(f"{text!r} is not an address; use the form http://label-studio:8080")
    return text.rstrip("/")


def check_database(url: SecretText) -> SecretText:
    """Return the address of a PostgreSQL, or "". Raises ValueError, which does not quote it."""
    text = url.get_secret_value()
    if text and not re.match(r"postgres(ql)?://", text):
        raise ValueError("must begin with postgresql://, such as postgresql://user@host/sam2")
    return url


def check_devices(text: str) -> str:
    """Return which devices to use, without spaces. Raises ValueError."""
    text = "".join(text.split())
    if text and not re.fullmatch(r"all|cpu:[1-9]\d?|\d+(,\d+)*", text):
        raise ValueError(
            "must be all, numbers of GPUs such as 0,1, or cpu: and a number up to 99, such as cpu:2"
        )
    if len(numbers := text.split(",")) != len(set(numbers)):
        raise ValueError("names a GPU twice")
    return text
