"""How many CPUs and how much memory this process may use: its container's limits, not the machine's size.

Does not know what they are for. Reads cgroups (v1 and v2: Linux, Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/) and the CPU affinity.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_UNKNOWN_MEMORY_BYTES = 8 * 2**30
"""What is assumed on systems that do not say how much memory there is (Windows)."""


def cpu_limit(root: Path = Path("/")) -> float:
    """CPUs that this process may use: the least of its affinity and of every quota above it; 0.5 is half a CPU.

    `root` is where proc/ and sys/ lie; tests pass a folder of their own.
    """
    # An affinity is of this process, so it is not looked for below another root.
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [float(affinity)]
    for folder in _cgroup_folders(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")  # v2: "50000 100000", or "max 100000"
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits)


def whole_cpus(root: Path = Path("/")) -> int:
    """Threads that compute at full speed within `cpu_limit`: rounded down, at least 1."""
    return max(1, math.floor(cpu_limit(root)))


def memory_limit_bytes(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: the machine's, or less if a cgroup above it has less."""
    limits = [_machine_memory_bytes()]
    for folder in _cgroup_folders(root, "memory"):
        texts = [_read(folder / file) for file in ("memory.max", "memory.high", "memory.limit_in_bytes")]
        limits += [int(text) for text in texts if text.isdecimal()]
    return min(limits)


def _machine_memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_MEMORY_BYTES


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders that limit this process, from its own cgroup up to the root of the hierarchy.

    In a container, /proc/self/cgroup may name a path of the host that is not mounted. The folders of it that
    do not exist have no files to read, and the root of the mount is the container's own cgroup.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # v2: one hierarchy for all controllers
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
            if not mount.is_dir():  # "cpu,cpuacct" is often mounted as "cpu"
                mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        parts = Path(path).parts[1:]
        for count in range(len(parts), -1, -1):
            yield mount.joinpath(*parts[:count])


def _read(path: Path) -> str:
    """A small file's text without its line end; empty if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
