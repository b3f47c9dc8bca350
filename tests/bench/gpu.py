r"""Correctness first, then all timings of one GPU, in one run of under nine minutes: python -m tests.bench.gpu

Timed are weights of the large variant that draw discs (discs.py); they take as long as real ones. `--rehearse` does
every step on a CPU with the smallest sizes and few repetitions; its figures mean nothing. The last lines are the
table against the targets of issue 3; `gpu.md` and `gpu.json` go to --output, or to the folder that $OUT names.

Where fastapi and its kin are missing and nothing can be fetched, carry them as wheels. In the repository, on a
machine with an index:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        -d .whl fastapi starlette uvicorn httptools pydantic==2.14.3 pydantic_core==2.50.4 pydantic-settings \
        python-dotenv annotated-types annotated-doc typing-inspection python-multipart opentelemetry-api pycocotools

and there, with `.whl` beside the repository's files:

    pip install --no-index --no-deps --target /tmp/site .whl/*.whl
    PYTHONPATH=/tmp/site python3 -m tests.bench.gpu
"""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from model.gpu.options import Compile
from model.runner import Sam2Runner
from tests.bench import machine
from tests.bench.gpu_checks import check_goldens, check_graphs, check_precision
from tests.bench.gpu_served import time_server
from tests.bench.gpu_session import SIDE, Session
from tests.bench.gpu_times import time_decode, time_encode, time_memory, time_transformers
from tests.bench.report import Row, Target, markdown, write

TARGETS = (
    Target("decode", "one click, first copy to last, device time", SIDE, "p50_ms", at_most=1.0),
    Target("server", "clicks, 1 clients", SIDE, "p50_ms", at_most=4.0),
    Target("encode", "1 pictures at once", SIDE, "p50_ms", at_most=12.0),
    Target("encode", "the best of these rates", SIDE, "per_s", at_least=100.0),
    Target("decode", "a full batch of clicks on several pictures", SIDE, "per_s", at_least=5000.0),
    Target("memory", "one cached picture", SIDE, "MiB", at_most=12.0),
    Target("memory", "many embeds", SIDE, "growth_MiB", at_most=1.0),
    Target("server", "second start until ready", SIDE, "s", at_most=20.0),
    Target("server", "p95 while embedding over idle p95", SIDE, "ratio", at_most=5.0),
    Target("server", "upload of a known picture, 1 MB", SIDE, "p50_ms", at_most=5.0),
)
"""What issue 3 asks of an H100. That memory stays flat it asks in words."""


def main() -> int:
    """Run every step; what is known by then is written even where a step fails, and a wrong answer ends the run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gpu", description="Correctness, then timings."
    )
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with the smallest sizes")
    parser.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="SAM2_COMPILE of what is timed in this process; 'on' takes longer than nine minutes",
    )
    parser.add_argument(
        "--output", type=Path, default=Path(os.environ.get("OUT", ".bench")), help="for gpu.md and gpu.json"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    head = machine.describe() | {"SAM2_COMPILE": options.compile}
    if options.rehearse:
        head["effort"] = "a rehearsal on a CPU: no figure here says anything of a GPU"
    else:
        head["GPU"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    with TemporaryDirectory(prefix="sam2-gpu-") as folder:
        session = Session(rehearse=options.rehearse, folder=Path(folder))
        try:
            _run(session, options.compile)
        finally:
            # A rehearsal meets no target and misses none.
            targets = () if options.rehearse else TARGETS
            write(session.rows, machine=head, folder=options.output, name="gpu", targets=targets)
            print(markdown(session.rows, machine=head, targets=targets), flush=True)
    missing = [target for target in TARGETS if not _has_figure(session.rows, target)]
    for target in missing:
        print(f"No figure for {target.section}: {target.case}: {target.value}")
    return 1 if missing else 0


def _has_figure(rows: Sequence[Row], target: Target) -> bool:
    return any(
        (row.section, row.case, row.side) == (target.section, target.case, target.side)
        and target.value in row.values
        for row in rows
    )


def _run(session: Session, compilation: Compile) -> None:
    with _announced("goldens"):
        check_goldens(session)
    with _announced("precision"):
        check_precision(session)
    with _announced("load and warm-up"):
        runner = _ready_runner(session, compilation)
    steps: dict[str, Callable[[Session, Sam2Runner], None]] = {
        "graphs": check_graphs,
        "encode": time_encode,
        "decode": time_decode,
        "memory": time_memory,
    }
    for name, step in steps.items():
        with _announced(name):
            step(session, runner)
    with _announced("transformers"):
        try:
            time_transformers(session, runner)
        except Exception:  # another version of a peer must not cost us our own figures
            traceback.print_exc()
    del runner
    if session.device == "cuda":
        torch.cuda.empty_cache()
    with _announced("server"):
        time_server(session)


def _ready_runner(session: Session, compilation: Compile) -> Sam2Runner:
    checkpoint = session.checkpoint
    started = perf_counter()
    runner = session.runner(
        session.variant, checkpoint=checkpoint, dtype="auto", compilation=compilation, cache_mib=1024
    )
    runner.warm_up()
    session.wait()
    session.add("server", "load and warm-up in process", s=perf_counter() - started)
    return runner


@contextmanager
def _announced(step: str) -> Iterator[None]:
    started = perf_counter()
    yield
    sys.stderr.write(f"{step}: {perf_counter() - started:.0f} s\n")


if __name__ == "__main__":
    sys.exit(main())
