"""The server counts with the limits of its container, whatever the size of the host."""

import os
from pathlib import Path

import pytest

from app.limits import cpu_limit, memory_limit_bytes, whole_cpus

GIB = 2**30


def system(folder: Path, cgroup: str, files: dict[str, str]) -> Path:
    """Return a root folder with proc/self/cgroup and files below sys/fs/cgroup."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with 64 CPUs and 256 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 256 * GIB // 4096, "SC_PAGE_SIZE": 4096}.__getitem__)


@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n", "memory.max": f"{GIB}\n"}),
        (
            "0::/a/b\n",
            {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000", "a/b/memory.max": f"{GIB}"},
        ),
        (
            "0::/a/b\n",
            {"a/b/memory.max": "max\n", "a/b/memory.high": f"{GIB}\n", "a/b/cpu.max": "25000 50000"},
        ),
        ("0::/host/path/that/is/not/mounted\n", {"cpu.max": "50000 100000\n", "memory.max": f"{GIB}\n"}),
        (
            "12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/y\n",
            {
                "memory/docker/x/memory.limit_in_bytes": f"{GIB}\n",
                "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "50000\n",
                "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            },
        ),
        (
            "12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n",
            {
                "memory/memory.limit_in_bytes": f"{GIB}\n",
                "cpu/cpu.cfs_quota_us": "50000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
        ),
    ],
    ids=["v2", "v2, of a parent", "v2, memory.high", "v2, foreign path", "v1", "v1 in a container"],
)
def test_a_container_of_half_a_cpu_and_one_gib(tmp_path: Path, cgroup: str, files: dict[str, str]) -> None:
    root = system(tmp_path, cgroup, files)
    assert cpu_limit(root) == 0.5
    assert whole_cpus(root) == 1
    assert memory_limit_bytes(root) == GIB


@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        ("", {}),
        ("0::/\n", {}),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}),
        ("0::/\n", {"cpu.max": "nonsense\n", "memory.max": "\n"}),
        (
            "3:memory:/\n2:cpu:/\n",
            {"memory/memory.limit_in_bytes": "9223372036854771712\n", "cpu/cpu.cfs_quota_us": "-1\n"},
        ),
    ],
    ids=["no cgroups", "no files", "v2", "v2, unreadable", "v1"],
)
def test_without_a_limit_it_is_the_machine(tmp_path: Path, cgroup: str, files: dict[str, str]) -> None:
    root = system(tmp_path, cgroup, files)
    assert cpu_limit(root) == 64
    assert memory_limit_bytes(root) == 256 * GIB


def test_an_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert cpu_limit(system(tmp_path, "0::/\n", {"cpu.max": "800000 100000"})) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert cpu_limit(tmp_path) == 8
    assert whole_cpus(tmp_path) == 8


def test_a_system_that_does_not_say_is_taken_for_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert cpu_limit(tmp_path) == 4
    assert memory_limit_bytes(tmp_path) == 8 * GIB
