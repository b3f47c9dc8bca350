"""Section crowded: clicks and encodes while other processes compete for the cores, as on most machines.

Uses the built-in model, with which most people begin. In addition to the peers it measures our own runner with one
thread, which contention slows by no more than its fair share. Does not know about HTTP.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import sleep

import numpy as np
import torch

from model.checkpoints.download import BUILTIN_PATH
from model.cpu.threads import Threads
from model.network.config import BUILTIN
from model.runner import Sam2Runner, load_runner
from model.training.export import read_weights
from tests.bench.builtin_section import scenes
from tests.bench.peer_onnx import OnnxRuntime
from tests.bench.peer_transformers import Transformers
from tests.bench.plain_decoder import export
from tests.bench.report import ONNX, TRANSFORMERS, Row
from tests.bench.sides import Ours, Side
from tests.bench.timing import summarise, take_turns
from tests.bench.traffic import HEIGHT, WIDTH
from tests.bench.weights import plain_model
from tests.bench.workbench import Workbench

BUSY = (0, 2, 4, 6, 12)
OURS, ONE_THREAD = "ours", "ours, one thread"


def crowded(bench: Workbench) -> list[Row]:
    """Time a click (three masks as RLE) and an encode next to busy processes, relative to the one-thread runner."""
    pictures, clicks = scenes(width=WIDTH, height=HEIGHT)
    picture, click = pictures[0], clicks[0]
    runners = {name: _runner() for name in (OURS, ONE_THREAD)}
    runners[ONE_THREAD].threads = Threads(1)
    embeddings = {name: runner.encode([picture]) for name, runner in runners.items()}
    state = read_weights(BUILTIN_PATH)
    onnx = OnnxRuntime(
        export(plain_model(state, variant=BUILTIN)), [picture], name=ONNX, num_threads=bench.num_threads
    )
    transformers = Transformers(state, [picture], name=TRANSFORMERS, dtype=torch.float32, variant=BUILTIN)
    for peer in (onnx, transformers):
        peer.take([embeddings[OURS][0].to_arrays(np.float32)])

    def with_all_threads(side: Side) -> None:
        torch.set_num_threads(bench.num_threads)
        side.answer(0, [click])

    answers = {peer.name: partial(with_all_threads, peer) for peer in (transformers, onnx)}
    answers |= {
        name: partial(Ours(runner, embeddings[name], name=name).answer, 0, [click])
        for name, runner in runners.items()
    }
    encodes = {name: partial(runner.encode, [picture]) for name, runner in runners.items()}
    rows: list[Row] = []
    for count in BUSY[:1] + BUSY[2:3] if bench.quick else BUSY:
        with busy_processes(count):
            beside = f"next to {count} busy processes"
            times = take_turns(answers, bench.effort(40, quick_seconds=10, least=20))
            rows += _rows(f"a click, {beside}", times)
            times = take_turns(encodes, bench.effort(20, quick_seconds=5, least=5))
            rows += _rows(f"an encode, {beside}", times)
    torch.set_num_threads(bench.num_threads)
    return rows


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run `count` processes that compute without pause, each in one thread."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        sleep(0.5 if count else 0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _runner() -> Sam2Runner:
    return load_runner(BUILTIN, checkpoint=BUILTIN_PATH, device="cpu", dtype="auto")


def _rows(case: str, times: dict[str, list[float]]) -> list[Row]:
    """Return median and p95 of every side, and their ratios to those of our one-thread runner."""
    rows = []
    reference = summarise(times[ONE_THREAD])
    for side, seconds in times.items():
        found = summarise(seconds)
        values = {"n": found.n, "median_ms": found.median_ms, "p95_ms": found.p95_ms}
        if side != ONE_THREAD:
            values |= {
                "median vs one thread": found.median_ms / reference.median_ms,
                "p95 vs one thread": found.p95_ms / reference.p95_ms,
            }
        rows.append(Row("crowded", case, side, values))
    return rows
