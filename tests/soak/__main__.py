"""The command `make soak`: checks that nothing is lost, nothing leaks and nothing crashes, with figures.

`python -m tests.soak --quick` takes ten minutes. `--only kills` runs only that check. `--minutes 5` sets the
duration of checks that run for a time. The exit code is 1 if anything does not hold.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from tests.soak import (
    attacks,
    kills,
    mixed_load,
    mutated_pictures,
    named_tests,
    overload,
    requests_from_schema,
    silent_clients,
    verdict,
)
from tests.soak.effort import Effort
from tests.soak.verdict import Finding

OUTPUT = Path(__file__).parents[2] / ".soak"

CHECKS: dict[str, Callable[[Effort], list[Finding]]] = {
    "tenants": named_tests.check_tenants,
    "disk": named_tests.check_disk,
    mutated_pictures.NAME: mutated_pictures.check,
    requests_from_schema.NAME: requests_from_schema.check,
    silent_clients.NAME: silent_clients.check,
    overload.NAME: overload.check,
    attacks.NAME: attacks.check,
    kills.NAME: kills.check,
    mixed_load.NAME: mixed_load.check,
}


def main() -> int:
    """Run the checks, print and write their table. A check that raises an exception counts as failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter checks")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="NAME")
    parser.add_argument("--minutes", type=float, help="duration of each check that runs for a time")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for soak.md and soak.json")
    options = parser.parse_args()
    head: dict[str, object] = {
        "when": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "effort": "quick" if options.quick else "full",
        "load average at the start": f"{os.getloadavg()[0]:.1f}",
    }
    findings: list[Finding] = []
    for name in options.only:
        started = perf_counter()
        with tempfile.TemporaryDirectory(prefix=f"soak-{name}-") as folder:
            effort = Effort(Path(folder), quick=options.quick, minutes=options.minutes)
            try:
                findings += CHECKS[name](effort)
            except Exception as error:
                findings.append(
                    Finding(
                        name, "the check runs to its end", f"{type(error).__name__}: {error}"[:600], False
                    )
                )
            _keep_logs(Path(folder), options.output / name)
        sys.stderr.write(f"{name}: {perf_counter() - started:.0f} s\n")
        # After every check, so that an interrupted run keeps its findings so far.
        verdict.write(findings, head=head, folder=options.output)
    print(verdict.markdown(findings, head=head))
    return 0 if all(one.passed for one in findings) else 1


def _keep_logs(folder: Path, kept: Path) -> None:
    for pattern in ("*.log", "*.txt", "*.json"):
        for path in folder.glob(pattern):
            kept.mkdir(parents=True, exist_ok=True)
            (kept / path.name).write_bytes(path.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
