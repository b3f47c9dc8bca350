"""Checks of settings: names, lists of names, addresses, sizes, and what a setting demands of another.

Does not know the settings.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationInfo

T = TypeVar("T", str, Path)

# Any scheme, because browser extensions and desktop tools have their own.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")
# A prefix of letters that need no escapes anywhere, without empty parts.
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.-]+)*/?")
_ADDRESS = re.compile(r"https?://[^/\s?#@]+(/[^\s?#]*)?")


def split(text: str) -> list[str]:
    """Return the parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def check_origins(text: str) -> str:
    """Return a list of origins, or *. Raises ValueError."""
    for origin in split(text):
        if origin != "*" and not _ORIGIN.fullmatch(origin.lower()):
            raise ValueError(
                f"{origin!r} is not an origin; use the form https://tool.example, without a path, or *"
            )
    return text


def as_browsers_write(origin: str) -> str:
    """Return an origin in small letters, and without the port that its scheme has anyway."""
    origin = origin.lower()
    for scheme, port in (("https", ":443"), ("http", ":80")):
        if origin.startswith(f"{scheme}://"):
            return origin.removesuffix(port)
    return origin


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


def check_bare(value: object) -> object:
    """Return a value without spaces around it. Raises ValueError if it is written in quotes.

    A file with the line ends of Windows leaves a carriage return behind each value; docker --env-file keeps quotes.
    """
    if not isinstance(value, str):
        return value
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        raise ValueError("the quotes are part of the value here; leave them out")
    return value


def check_not_a_link(value: object) -> object:
    """Return a port as it is. Raises ValueError for what Kubernetes tells every pod of a Service called sam2."""
    if isinstance(value, str) and value.startswith("tcp://"):
        raise ValueError(
            "this is from Kubernetes, which names each Service in the variables of all pods; set "
            "'enableServiceLinks: false' in the pod, or SAM2_PORT itself, or call the Service something else than "
            "sam2"
        )
    return value


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


def check_filled(value: object) -> object:
    """Return the name of a folder as it is. Raises ValueError for "", which would be the current one."""
    if value == "":
        raise ValueError("is empty; name a folder, or leave the variable out")
    return value


def check_path(path: T) -> T:
    """Return a path as it is. Raises ValueError if it begins with ~ and nobody knows that folder."""
    try:
        Path(path).expanduser()
    except RuntimeError as error:  # a container's user often has no entry in /etc/passwd
        raise ValueError(
            "the home folder that ~ stands for is not known here; write the path without ~"
        ) from error
    return path


def check_address(text: str) -> str:
    """Return the address of a server, without a slash at its end, or "". Raises ValueError."""
    if text and not _ADDRESS.fullmatch(text):
        raise ValueError(f"{text!r} is not an address; use the form http://label-studio:8080")
    _check_place(text)
    return text.rstrip("/")


def _check_place(url: str) -> None:
    """Raise ValueError for a host or a port that no connection can be made to."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        is_place = parts.port != 0
    except ValueError:  # UnicodeError among them
        is_place = False
    if not is_place:
        raise ValueError("its host or its port is none; ports are numbers from 1 to 65535")


def check_download(text: str) -> str:
    """Return the address of a folder on a web server. Raises ValueError, which does not quote it."""
    if not re.fullmatch(r"https?://[^\s]+", text):
        raise ValueError("must begin with https:// or http://")
    _check_place(text)
    return text


def check_bucket(text: str) -> str:
    """Return the URL of a bucket, without a slash at its end, or "". Raises ValueError."""
    if text and not _BUCKET.fullmatch(text):
        raise ValueError(
            "must be s3:// with a bucket's name and, if wanted, a prefix, such as s3://bucket/prefix; endpoint, "
            "region and credentials come from AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    return text.rstrip("/")


def check_database(url: SecretStr) -> SecretStr:
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


def check_cluster(text: str) -> str:
    """Return the address of a Ray: auto, or a host and a port. Raises ValueError."""
    text = text.strip()
    if text and text != "auto" and not re.fullmatch(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", text):
        raise ValueError(
            "must be auto, or the address of the head of a Ray with its port, such as 10.0.0.5:6379"
        )
    return text


def check_no_devices(cluster: str, info: ValidationInfo) -> str:
    """Return the address of a Ray. Raises ValueError if devices are to be started too."""
    if cluster and info.data.get("devices"):
        raise ValueError(
            "SAM2_DEVICES starts devices, and SAM2_CLUSTER asks those of others; set one of them"
        )
    return cluster


def check_holds_an_upload(max_bodies_mib: int, info: ValidationInfo) -> int:
    """Return most MiB of bodies. Raises ValueError if the largest upload is larger."""
    if max_bodies_mib < info.data.get("max_upload_mib", 0):
        raise ValueError("smaller than SAM2_MAX_UPLOAD_MIB: the largest upload would never be accepted")
    return max_bodies_mib


def check_holds_a_request(max_waiting_prompts: int, info: ValidationInfo) -> int:
    """Return most waiting prompts. Raises ValueError if the largest request has more."""
    if max_waiting_prompts < info.data.get("max_prompts", 0):
        raise ValueError("smaller than SAM2_MAX_PROMPTS: the largest request would never be accepted")
    return max_waiting_prompts
