"""The variables that Ray reads when it is imported. Its processes inherit them. Does not import Ray."""

import os
import secrets

MESSAGE_BYTES = 2**30
"""Most bytes of a call or an answer: an upload, or the masks of a search. Ray's own limit is 4 MiB.

A call is held several times while it is written and read: with 1.1 GiB, two processes took all of 15.
"""
_BESIDE_BYTES = 64 * 2**20
"""Of a call, beside an upload: prompts with masks."""
_MESSAGE_LIMIT = "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"

OF_ALL = {
    # Whoever reaches Ray's ports may run code in its processes.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    # Calls go by gRPC, on one event loop: a click takes 4 ms less than by Ray's own way.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",  # which the flag above opens: ports without a token, and a proxy
}
"""What must be the same for Fronts and for all nodes. deploy/ray/environment says it to `ray start`."""

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
        _MESSAGE_LIMIT: str(MESSAGE_BYTES),
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
    return OF_ALL | {_MESSAGE_LIMIT: str(MESSAGE_BYTES), _AWAY: str(_AWAY_S)}


def prepare_to_join() -> None:
    """Set the variables for a Ray that runs. Who set one of them meant it; the token is among those."""
    for name, value in for_joining().items():
        os.environ.setdefault(name, value)


def most_upload_mib() -> int:
    """Return how large an upload may be that a Front passes on, by the variables of this process."""
    return (int(os.environ.get(_MESSAGE_LIMIT, MESSAGE_BYTES)) - _BESIDE_BYTES) // 2**20


def differences() -> list[str]:
    """Return what `ray start` lacked on this node, without which Fronts could not ask its Devices."""
    wanted = {name: value for name, value in OF_ALL.items() if name.startswith("RAY_SERVE_")}
    found = [f"{name}={value}" for name, value in wanted.items() if os.environ.get(name) != value]
    if int(os.environ.get(_MESSAGE_LIMIT, "0")) < MESSAGE_BYTES:
        found.append(f"{_MESSAGE_LIMIT}={MESSAGE_BYTES}")
    return found
