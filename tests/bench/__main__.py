"""The command `make bench`: measures every side with the same weights, in turns, on the same cores.

`python -m tests.bench --quick` takes five minutes. `--sections click boxes` measures only these sections.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from app.process import keep_freed_memory
from tests.bench import machine, report
from tests.bench.builtin_section import builtin
from tests.bench.cluster_section import cluster
from tests.bench.crowded_section import crowded
from tests.bench.decoder_sections import boxes, click, crowd
from tests.bench.doors_section import doors
from tests.bench.encode_section import encode
from tests.bench.everything_section import everything
from tests.bench.measuring import measure
from tests.bench.picture_sections import masks
from tests.bench.report import OURS, Row
from tests.bench.served_sections import busy, http, memory
from tests.bench.video_section import video
from tests.bench.workbench import Workbench

OUTPUT = Path(__file__).parents[2] / ".bench"

SECTIONS: dict[str, Callable[[Workbench], Iterable[Row]]] = {
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
    "doors": doors,
    "everything": everything,
    "video": video,
    "cluster": cluster,
}


def main() -> int:
    """Measure, print and write the tables. If two decoders' answers differ, the run ends with an error."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and pictures")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help="folder for bench.md, bench.json and charts/"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=machine.num_cores(),
        help="threads of every side; use fewer than cores if others share the machine",
    )
    parser.add_argument(
        "--before", metavar="COMMIT", help="time the encoder of an earlier commit beside today's"
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=machine.PRECISIONS,
        metavar="NAME",
        help="float32, bfloat16 or both; if not given, those that this CPU does not emulate",
    )
    options = parser.parse_args()
    precisions = options.precisions or machine.fast_precisions()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    head = machine.describe()
    head |= {
        "threads of every side": options.threads,
        "effort": "quick" if options.quick else "full",
        "precisions": ", ".join(precisions),
    }
    keep_freed_memory()  # as the server does; it applies to all sides
    bench = Workbench(
        quick=options.quick,
        num_threads=options.threads,
        before=options.before,
        ours=[name for name in OURS if name.removeprefix("ours ") in precisions],
    )
    chosen = {name: partial(SECTIONS[name], bench) for name in options.sections}
    try:
        rows = measure(chosen, head=head, folder=options.output)
    finally:
        bench.close()
    print(report.markdown(rows, machine=head))
    return 0


if __name__ == "__main__":
    sys.exit(main())
