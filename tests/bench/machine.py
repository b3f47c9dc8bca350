"""Describes the machine and the versions of a run, for the head of the report.

Does not know what is measured.
"""

import ctypes
import gc
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from model.devices import resolve_dtype

PACKAGES = ("torch", "numpy", "transformers", "onnxruntime", "openvino", "onnx", "pycocotools")
PRECISIONS = ("float32", "bfloat16")
_ROOT = Path(__file__).parents[2]


def num_cores() -> int:
    """Return the number of CPU cores that this process may use. Every side gets as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fast_precisions() -> tuple[str, ...]:
    """Those whose products this CPU does itself. Where it emulates bfloat16, a run with it would take hours."""
    fast = resolve_dtype("auto", torch.device("cpu"))
    return PRECISIONS if fast == torch.bfloat16 else PRECISIONS[:1]


def describe() -> dict[str, object]:
    """Return time, machine, load, versions and commit, by name."""
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{_processor()}, {num_cores()} cores, {platform.system()} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load average at the start (1, 5, 15 min)": load_average(),
        "python": platform.python_version(),
        "packages": versions,
        "commit": _commit(),
    }


def load_average() -> str:
    """Return the load of the last 1, 5 and 15 minutes. If it is above 0 before a run, others share the machine."""
    return ", ".join(f"{load:.2f}" for load in os.getloadavg())


def peak_resident_mib(pid: int | None = None) -> float:
    """Return the peak resident memory of a process in MiB; without `pid`, of this one. Linux only."""
    return _status_mib(os.getpid() if pid is None else pid, "VmHWM")


def forget_peak() -> float:
    """Let the peak of this process start anew, at the resident memory in MiB, which is returned. Linux only.

    Memory that was freed goes back to the system before.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_mib()


def resident_mib() -> float:
    """Return the resident memory of this process in MiB. Linux only."""
    return _status_mib(os.getpid(), "VmRSS")


def _status_mib(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"/proc/{pid}/status has no {name}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    git = ["git", "-C", str(_ROOT)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + (" with uncommitted changes" if changes.stdout.strip() else "")
