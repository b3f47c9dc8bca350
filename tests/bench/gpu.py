r"""Checks, then all timings of one GPU, in one run that loses nothing: python -m tests.bench.gpu

Timed are weights of the large variant that draw discs (discs.py); they take as long as real ones. Steps come in the
order of their worth. What fails, and an answer that is wrong, is noted, and the run goes on; it ends with 1 then,
also where a target has no figure. gpu.md and gpu.json are written anew after every figure, to --output or to the
folder that $OUT names; tables of kernels and logs lie beside them. --seconds is kept: a step that does not fit into
what is left is skipped. SIGTERM and SIGINT leave what there is. `--rehearse` does every step on a CPU with the
smallest sizes and few repetitions; its figures mean nothing.

A machine with a GPU and no package index needs the repository, the folder .whl in it, which `make gpu-bench-kit`
makes elsewhere, and a Python with torch, numpy, pillow, scipy, safetensors, tqdm and certifi. There,
where $OUT names a folder for the results, everything is this one command (eight minutes and a half):

    set -o pipefail; export PYTHONUNBUFFERED=1; mkdir -p $OUT; python3 -m pip install -q --no-index --no-deps \
      --no-compile --no-cache-dir --upgrade --target .site .whl/*.whl && export PYTHONPATH=$PWD/.site && \
    { nvidia-smi; timeout -k 20 -s INT 510 python3 -m tests.bench.gpu --seconds 480 2>&1 | tee $OUT/log; }
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tests.bench import machine
from tests.bench.gpu_builtin import check_builtin
from tests.bench.gpu_checks import check_goldens, check_graphs, check_precision
from tests.bench.gpu_hazards import check_concurrency, check_lost_device, probe_races
from tests.bench.gpu_memory import measure_energy, time_memory
from tests.bench.gpu_peer import time_transformers
from tests.bench.gpu_profile import note_facts, probe_attention, profile_kernels, time_compiled
from tests.bench.gpu_results import Results
from tests.bench.gpu_served import time_server
from tests.bench.gpu_session import SIDE, Session
from tests.bench.gpu_steps import Cut, Step, heeding_signals, run_steps
from tests.bench.gpu_times import (
    time_decode,
    time_decode_curve,
    time_encode,
    time_jpegs,
    time_load,
    time_variants,
)
from tests.bench.report import Target

TARGETS = (
    Target("decode", "one click, first copy to last, device time", SIDE, "p50_ms", at_most=1.0),
    Target("server", "clicks, 1 clients", SIDE, "p50_ms", at_most=4.0),
    Target("encode", "1 pictures at once", SIDE, "p50_ms", at_most=12.0),
    Target("server", "new pictures, 1 clients", SIDE, "p50_ms", at_most=12.0),
    Target("encode", "the best of these rates", SIDE, "per_s", at_least=100.0),
    Target("server", "new pictures, 8 clients", SIDE, "per_s", at_least=100.0),
    Target("decode", "a full batch of clicks on several pictures", SIDE, "per_s", at_least=5000.0),
    Target("memory", "one cached picture", SIDE, "MiB", at_most=12.0),
    Target("memory", "many embeds", SIDE, "growth_MiB", at_most=1.0),
    Target("server", "second start until ready", SIDE, "s", at_most=20.0),
    Target("server", "p95 while embedding over idle p95", SIDE, "ratio", at_most=5.0),
    Target("server", "upload of a known picture, 1 MB", SIDE, "p50_ms", at_most=5.0),
)
"""What is asked of an H100. That memory stays flat is asked in words."""

STEPS = (
    Step("facts", note_facts, 3),
    Step("goldens", check_goldens, 15),
    Step("built-in model", check_builtin, 12),
    Step("load", time_load, 35),
    Step("graphs", check_graphs, 20),
    Step("encode", time_encode, 26),
    Step("decode", time_decode, 32),
    Step("kernels", profile_kernels, 8),
    Step("attention", probe_attention, 25),
    Step("server", time_server, 130),
    Step("decode curve", time_decode_curve, 13),
    Step("memory", time_memory, 16),
    Step("energy", measure_energy, 5),
    Step("races", probe_races, 14),
    Step("concurrency", check_concurrency, 15),
    Step("precision", check_precision, 25),
    Step("transformers", time_transformers, 32),
    Step("variants", time_variants, 25),
    Step("JPEG", time_jpegs, 4),
    Step("lost device", check_lost_device, 25),
    Step("compiled", time_compiled, 60),
)
"""What a step costs is an estimate for an H100, until one has run them."""


def main(arguments: Sequence[str] | None = None, *, steps: Sequence[Step] = STEPS) -> int:
    """Run the steps that fit; 0 where every answer was right, nothing failed and every target has a figure."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    head = machine.describe() | {"SAM2_COMPILE": options.compile}
    if options.rehearse:
        head["effort"] = "a rehearsal on a CPU: no figure here says anything of a GPU"
    else:
        head["GPU"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda or torch.version.hip}"
    seconds = options.seconds or (float("inf") if options.rehearse else 480.0)
    # A rehearsal meets no target and misses none.
    results = Results(options.output, machine=head, targets=() if options.rehearse else TARGETS)
    with TemporaryDirectory(prefix="sam2-gpu-") as folder, heeding_signals():
        session = Session(
            results, rehearse=options.rehearse, folder=Path(folder), compilation=options.compile
        )
        try:
            run_steps(steps, session, seconds=seconds)
        except Cut as cut:
            results.note("cut", f"{cut} came")
        print(results.markdown(), flush=True)
    return 0 if results.is_whole else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gpu", description="Checks, then timings, of one GPU."
    )
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with the smallest sizes")
    parser.add_argument(
        "--seconds", type=float, help="what it may take; default 480, and any time for a rehearsal"
    )
    parser.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="SAM2_COMPILE of what is timed in this process; 'on' takes longer than nine minutes",
    )
    folder = Path(os.environ.get("OUT", ".bench/gpu"))
    parser.add_argument(
        "--output", type=Path, default=folder, help="for gpu.md, gpu.json and what belongs to them"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
