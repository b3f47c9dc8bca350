"""Section encode: a picture from pixels to embedding, including preparation, by us and by the peers.

With `--before COMMIT` our own code of that commit takes part. Does not know about prompts and HTTP.
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter, process_time
from types import ModuleType

import numpy as np
import torch

from model.cpu.threads import Threads
from model.runner import Sam2Runner, load_runner
from tests.bench import floor
from tests.bench.peer_openvino import OpenVino, export_encoder
from tests.bench.report import (
    BEFORE,
    FLOORS,
    ONE_THREAD,
    OPENVINO,
    OURS,
    TRANSFORMERS,
    WHOLE,
    Row,
    timed_rows,
)
from tests.bench.timing import take_turns
from tests.bench.weights import VARIANT, golden_state, save_checkpoint
from tests.bench.workbench import Workbench

LARGE = "sam2.1_hiera_large"

Encodes = dict[str, Callable[[], object]]


def encode(bench: Workbench) -> list[Row]:
    """Wall time with all threads, CPU time with one, and how far the embeddings are from transformers'."""
    picture = bench.pictures[0]
    runners = dict(bench.runners)
    if bench.earlier:
        for name, dtype in bench.of_precisions(BEFORE):
            runners[name] = bench.earlier.load_runner(
                VARIANT, checkpoint=bench.checkpoint, device="cpu", dtype=str(dtype).removeprefix("torch.")
            )
    graph = export_encoder(bench.state, bench.folder / "encoder.onnx")
    rows: list[Row] = []
    for threads, case, clock in (
        (bench.num_threads, WHOLE, perf_counter),
        (1, ONE_THREAD, process_time),
    ):
        sides: Encodes = {TRANSFORMERS: partial(bench.transformers.encode, picture)}
        for name, dtype in bench.of_precisions(OPENVINO):
            peer = OpenVino(graph, dtype=dtype, num_threads=threads)
            sides[name] = partial(peer.encode, picture)
        sides |= {name: partial(runner.encode, [picture]) for name, runner in runners.items()}
        for name, dtype in bench.of_precisions(FLOORS):
            sides[name] = floor.products(VARIANT, dtype)
        if not rows:
            rows += _check(bench, sides)
        rows += _timed(bench, case, sides, runners, threads=threads, clock=clock)
    if bench.earlier and not bench.quick and OURS[1] in bench.ours:
        rows += _large(bench, bench.earlier)
    return rows


def _timed(
    bench: Workbench,
    case: str,
    sides: Encodes,
    runners: dict[str, Sam2Runner],
    *,
    threads: int,
    clock: Callable[[], float],
) -> list[Row]:
    """Time every side with so many threads. A floor's call is a share of its work."""
    for runner in runners.values():
        runner.threads = Threads(threads)
    calls = {name: partial(_with_threads, threads, call) for name, call in sides.items()}
    effort = bench.effort(60, quick_seconds=6, warm_up=1)
    times = take_turns(calls, effort, clock=clock)
    for name in set(FLOORS) & set(times):
        times[name] = [floor.SHARE * seconds for seconds in times[name]]
    for runner in runners.values():
        runner.threads = Threads(bench.num_threads)
    torch.set_num_threads(bench.num_threads)
    return timed_rows("encode", case, times)


def _large(bench: Workbench, earlier: ModuleType) -> list[Row]:
    """The large model in bfloat16 against itself before."""
    checkpoint = save_checkpoint(golden_state(LARGE), bench.folder / "large.safetensors")
    runners = {
        name: load(LARGE, checkpoint=checkpoint, device="cpu", dtype="bfloat16")
        for name, load in ((OURS[1], load_runner), (BEFORE[1], earlier.load_runner))
    }
    sides: Encodes = {name: partial(runner.encode, [bench.pictures[0]]) for name, runner in runners.items()}
    return _timed(
        bench, f"{WHOLE}, large, CPU time of one thread", sides, runners, threads=1, clock=process_time
    )


def _with_threads(threads: int, call: Callable[[], object]) -> None:
    torch.set_num_threads(threads)
    call()


def _check(bench: Workbench, sides: Encodes) -> list[Row]:
    """Return errors of image_embed against transformers'. Raises AssertionError if one of ours is too large."""
    expected = bench.transformers.encode(bench.pictures[0])[-1][0].numpy()
    found = {
        name: bench.embeddings[name][0].to_arrays(np.float32)["image_embed"][0] for name in bench.ours
    } | {name: sides[name]() for name, _ in bench.of_precisions(OPENVINO)}
    most = dict(zip(OURS, (1e-3, 0.03), strict=True))
    rows = []
    for name, embed in found.items():
        error = float(np.linalg.norm(embed - expected) / np.linalg.norm(expected))
        if error > most.get(name, np.inf):
            raise AssertionError(
                f"{name}: image_embed differs from transformers' by {error:.2g}, allowed {most[name]}"
            )
        rows.append(Row("agreement", "image_embed, against transformers", name, {"relative error": error}))
    return rows
