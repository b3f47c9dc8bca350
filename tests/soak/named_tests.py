"""Runs existing tests and adds them to the table: a failing disk, and two tenants on every endpoint."""

import re
import subprocess
import sys

from tests.server import ROOT, environment
from tests.soak.effort import Effort
from tests.soak.verdict import Finding

DISK = (
    "tests/app/storage/test_faulty_folders.py::test_a_full_disk_stops_nobody_and_is_made_up_for",
    "tests/app/storage/test_faulty_folders.py::test_a_folder_that_is_read_only_stops_nobody",
    "tests/app/storage/test_faulty_folders.py::test_a_folder_that_is_deleted_stops_nobody_and_comes_back",
    "tests/app/storage/test_faulty_folders.py::test_a_torn_file_is_asked_for_again_and_never_served",
    "tests/app/storage/test_tiers_on_disk.py::test_a_disk_that_hangs_holds_nobody_for_long",
    "tests/app/storage/test_register_damage.py",
)
TENANTS = ("tests/app/routes/test_tenants.py",)


def check_disk(effort: Effort) -> list[Finding]:
    """Run the tests of full, read-only, deleted and hanging folders, and of torn files."""
    return [
        _run(
            "disk",
            "full, read-only, deleted and slow folders, torn files and damaged registers stop no request",
            DISK,
        )
    ]


def check_tenants(effort: Effort) -> list[Finding]:
    """Run the tests of tenants on every route."""
    return [_run("tenants", "on each route no tenant sees another's pictures", TENANTS)]


def _run(name: str, must_hold: str, tests: tuple[str, ...]) -> Finding:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    counts = re.findall(r"^(\d+ .*) in ", done.stdout, re.MULTILINE)
    where = ", ".join(test.removeprefix("tests/app/") for test in tests)
    return Finding(
        name, must_hold, f"{counts[-1] if counts else done.stdout[-300:]}: {where}", not done.returncode
    )
