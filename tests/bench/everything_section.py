"""Section everything: all objects of a picture, against transformers' pipeline with the same weights.

Our side is the served application: an upload of a new picture, answered with RLE. The pipeline gets decoded pixels.
Both encode the picture. Does not know what is found, only how far the sides agree: too little is a missed target.
"""

import json
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from time import perf_counter, sleep

import httpx
import numpy as np
from PIL import Image
from pycocotools import mask as coco

from tests.bench import machine
from tests.bench.agreement import Rle, best_iou
from tests.bench.load import Load, numbered, run
from tests.bench.peer_generator import Generator
from tests.bench.report import MASKS_FOUND, TRANSFORMERS, Row, timed_rows
from tests.bench.server import RunningServer, serve
from tests.bench.timing import percentile
from tests.bench.traffic import HEIGHT, WIDTH, clickers
from tests.bench.weights import VARIANT
from tests.bench.workbench import Workbench

POINTS_PER_SIDE, QUICK_POINTS_PER_SIDE = 32, 12
PRED_IOU_THRESH, STABILITY_THRESH = 0.56, 0.3
"""The bench's weights predict low IoU. With these, half of the points have a mask that passes."""
_BATCH = 64
"""Prompts that the pipeline decodes at once: its default."""
CLICKS_IDLE_S = 8.0
_PATIENCE_S = 3600
"""For a crowded machine, where the service would say that it cannot be done in time."""


def everything(bench: Workbench) -> Iterator[Row]:
    """Time all objects of one picture, then memory and clicks of others for each of our precisions.

    Yields each row when it is measured.
    """
    side = QUICK_POINTS_PER_SIDE if bench.quick else POINTS_PER_SIDE
    picture = Image.fromarray(bench.pictures[0])
    jpeg = _jpeg(picture)
    decoded = Image.open(BytesIO(jpeg)).convert("RGB")
    generator = Generator(bench.state)
    began = perf_counter()
    masks = generator.masks(
        decoded,
        points_per_side=side,
        pred_iou_thresh=PRED_IOU_THRESH,
        stability_score_thresh=STABILITY_THRESH,
        points_per_batch=_BATCH,
    )
    seconds = {TRANSFORMERS: [perf_counter() - began]}
    del generator
    theirs = [coco.encode(np.asfortranarray(mask).view(np.uint8)) for mask in masks]
    case = f"{side} x {side} points on {WIDTH} x {HEIGHT}"
    yield from timed_rows("everything", case, seconds)
    yield _row(MASKS_FOUND, TRANSFORMERS, {"masks": len(theirs)})
    for name in bench.ours:
        settings = {
            "model": VARIANT,
            "checkpoint": str(bench.checkpoint),
            "dtype": name.removeprefix("ours "),
            "log_level": "warning",
            "everything_deadline_s": str(_PATIENCE_S),
        }
        log = bench.folder / "everything.log"
        with serve(settings, log=log, num_threads=bench.num_threads) as server:
            yield _memory(server, name, jpeg, side=side)  # first: the server keeps memory that it had once
            rounds = [_search(server, numbered(jpeg, i), side=side) for i in range(1 if bench.quick else 3)]
            seconds[name] = [took for took, _ in rounds]
            yield from (row for row in timed_rows("everything", case, seconds) if row.side == name)
            yield _row(MASKS_FOUND, name, best_iou(rounds[0][1], theirs))
            yield _beside(server, name, jpeg, side=side)


def _search(server: RunningServer, jpeg: bytes, *, side: int) -> tuple[float, list[Rle]]:
    """Upload a picture and search it. Return the seconds and the masks."""
    options = {
        "points_per_side": side,
        "pred_iou_thresh": PRED_IOU_THRESH,
        "stability_score_thresh": STABILITY_THRESH,
        "box_nms_thresh": 0.7,
    }
    began = perf_counter()
    reply = httpx.post(
        f"http://127.0.0.1:{server.port}/everything",
        files={"image": ("picture.jpg", jpeg)},
        data={name: json.dumps(value) for name, value in options.items()},
        timeout=_PATIENCE_S,
        trust_env=False,
    )
    took = perf_counter() - began
    return took, [mask["rle"] for mask in reply.raise_for_status().json()["masks"]]


def _beside(server: RunningServer, name: str, jpeg: bytes, *, side: int) -> Row:
    """Time clicks of another client, alone and while a picture is searched."""
    clicker = clickers(1, [server.embed(jpeg)])
    run(Load(server.port, 0.5, clicker))
    idle = run(Load(server.port, CLICKS_IDLE_S, clicker))["click"].latencies
    searching = threading.Thread(target=_search, args=(server, jpeg), kwargs={"side": side})
    searching.start()
    sleep(0.3)
    meanwhile: list[float] = []
    while searching.is_alive():
        meanwhile += run(Load(server.port, 1.0, clicker))["click"].latencies
    searching.join()
    idle_ms, busy_ms = (1000 * percentile(each, 95) for each in (idle, meanwhile))
    values = {"idle p95_ms": idle_ms, "p95_ms": busy_ms, "n": len(meanwhile), "ratio": busy_ms / idle_ms}
    return _row("a click of somebody else meanwhile", name, values)


def _memory(server: RunningServer, name: str, jpeg: bytes, *, side: int) -> Row:
    """Measure the peak of the server's memory during a search, and during clicks."""
    clicker = clickers(1, [server.embed(jpeg)])
    refs = Path(f"/proc/{server.pid}/clear_refs")
    peaks = []
    for work in (lambda: run(Load(server.port, 1.0, clicker)), lambda: _search(server, jpeg, side=side)):
        refs.write_text("5")
        work()
        peaks.append(machine.peak_resident_mib(server.pid))
    values = {"click MiB": peaks[0], "peak MiB": peaks[1], "over a click MiB": peaks[1] - peaks[0]}
    return _row("memory", name, values)


def _jpeg(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "JPEG", quality=92)
    return file.getvalue()


def _row(case: str, side: str, values: dict[str, float]) -> Row:
    return Row("everything", case, side, values)
