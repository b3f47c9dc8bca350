"""The variables that Ray reads when it is imported. Its processes inherit them. Does not import Ray."""

import os
import secrets

OF_ALL = {
    # Whoever reaches Ray's ports may run code in its processes.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    # Everything of a Device is on one event loop, so no click wakes two.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",  # which the flag above opens: ports without a token, and a proxy
}
"""What must be the same for Fronts and for all nodes. deploy/ray/environment says it to `ray start`."""
_OF_SERVE = {name: value for name, value in OF_ALL.items() if name.startswith("RAY_SERVE_")}

_AWAY = "RAY_gcs_rpc_server_reconnect_timeout_s"
_AWAY_S = 600
"""So long do Fronts and nodes go on while the head is away. Ray's own 60 s end all of them then."""

_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
GPU = "cuda"
"""How torch names the one GPU that a Device sees."""


def prepare(*, gpus: tuple[str, ...]) -> None:
    """Set the variables for a Ray that this command starts.

    `gpus` are those that may be used, numbered as torch does; none given: all that are visible.
    """
    os.environ |= OF_ALL | {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # of this run
        "RAY_DEDUP_LOGS": "0",
        "RAY_COLOR_PREFIX": "0",
    }
    for others in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_NAMESPACE"):  # of another Ray on this machine
        os.environ.pop(others, None)
    if gpus:
        os.environ[_VISIBLE_GPUS] = ",".join(_named(gpus, os.environ.get(_VISIBLE_GPUS, "")))


def _named(gpus: tuple[str, ...], visible: str) -> list[str]:
    """Return how CUDA names these GPUs. Torch's numbers count those that it lets through: `visible`, or all."""
    names = visible.split(",") if visible else []
    return [names[int(number)].strip() if names else number for number in gpus]


def for_joining() -> dict[str, str]:
    """Return what deploy/ray/environment says, too."""
    return OF_ALL | {_AWAY: str(_AWAY_S)}


def prepare_to_join() -> None:
    """Set the variables for a Ray that runs. Who set one meant it, but those that nodes need too are set here."""
    for name, value in for_joining().items():
        os.environ.setdefault(name, value)
    os.environ |= _OF_SERVE


def differences() -> list[str]:
    """Return what `ray start` lacked on this node, of what Devices rely on."""
    return [f"{name}={value}" for name, value in _OF_SERVE.items() if os.environ.get(name) != value]
