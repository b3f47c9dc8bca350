"""Runs sections one after the other, and writes what is measured so far. Does not know what they measure."""

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import perf_counter

from tests.bench import charts, machine, report
from tests.bench.report import Row


def measure(
    sections: Mapping[str, Callable[[], Iterable[Row]]], *, head: dict[str, object], folder: Path
) -> list[Row]:
    """Return the rows of all sections. After each, also one that fails, `folder` has all rows so far: also those
    that a section yields before it fails.
    """
    rows: list[Row] = []
    for name, section in sections.items():
        started = perf_counter()
        try:
            for row in section():
                rows.append(row)  # noqa: PERF402  # extend does not promise to keep those before a failure
        finally:
            sys.stderr.write(f"{name}: {perf_counter() - started:.0f} s\n")
            head["load average at the end"] = machine.load_average()
            report.write(rows, machine=head, folder=folder)
            charts.draw(rows, folder / "charts")
    return rows
