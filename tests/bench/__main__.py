"""The command `make bench`: every side with the same weights, in turns, on the same cores.

`python -m tests.bench --quick` takes three minutes, `--sections click boxes` measures those alone.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from app.__main__ import keep_freed_memory
from tests.bench import machine, report
from tests.bench.builtin_section import builtin
from tests.bench.crowded_section import crowded
from tests.bench.decoder_sections import boxes, click, crowd
from tests.bench.picture_sections import encode, masks
from tests.bench.report import Row
from tests.bench.served_sections import busy, http, memory
from tests.bench.workbench import Workbench

OUTPUT = Path(__file__).parents[2] / ".bench"

SECTIONS: dict[str, Callable[[Workbench], list[Row]]] = {
    "click": click,
    "boxes": boxes,
    "crowd": crowd,
    "masks": masks,
    "encode": encode,
    "builtin": builtin,
    "crowded": crowded,
    "http": http,
    "busy": busy,
    "memory": memory,
}


def main() -> int:
    """Measure, print and write the tables; an answer that differs between sides ends the run with its message."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and pictures")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for bench.md and bench.json")
    parser.add_argument(
        "--threads",
        type=int,
        default=machine.num_cores(),
        help="of every side; fewer than cores where others share the machine",
    )
    options = parser.parse_args()
    head = machine.describe()
    head |= {"threads of every side": options.threads, "effort": "quick" if options.quick else "full"}
    keep_freed_memory()  # as the server does; all sides have it
    bench = Workbench(quick=options.quick, num_threads=options.threads)
    rows: list[Row] = []
    try:
        for name in options.sections:
            started = perf_counter()
            rows += SECTIONS[name](bench)
            sys.stderr.write(f"{name}: {perf_counter() - started:.0f} s\n")
            head["load average at the end"] = machine.load_average()
            report.write(rows, machine=head, folder=options.output)  # a run that is cut off keeps what it has
    finally:
        bench.close()
    print(report.markdown(rows, machine=head))
    return 0


if __name__ == "__main__":
    sys.exit(main())
