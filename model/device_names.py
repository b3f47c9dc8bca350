"""Names of devices, and what is none. Does not know which of them this machine has, and loads no torch for that."""

import re


def check_device(name: str) -> str:
    """Return the name of a device: "auto", "cpu", "cuda" or "cuda:N". Raises ValueError for any other."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(
            f"device {name!r} cannot be used here: only auto, cpu, cuda and cuda:N (N from 0) are supported."
        )
    return name
