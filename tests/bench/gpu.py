r"""Correctness first, then all timings of one GPU, in one run of under nine minutes: python -m tests.bench.gpu

Timed are random weights of the large variant; they take as long as real ones. `--rehearse` does every step with the
tiny variant on a CPU and few repetitions. The last lines are the table; `gpu.json` goes to --output, or to the
folder that $OUT names.

Where fastapi and its kin are missing and nothing can be fetched, carry them as wheels. In the repository, on a
machine with an index:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        -d .whl fastapi starlette uvicorn httptools pydantic==2.14.3 pydantic_core==2.50.4 pydantic-settings \
        python-dotenv annotated-types annotated-doc typing-inspection python-multipart opentelemetry-api

and there, with `.whl` beside the repository's files:

    pip install --no-index --no-deps --target /tmp/site .whl/*.whl
    PYTHONPATH=/tmp/site python3 -m tests.bench.gpu
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from app.answers import answer
from model.masks import runs
from model.runner import Sam2Runner, load_runner
from model.types import Prompt
from tests.bench import load, machine
from tests.bench.discs import disc_state
from tests.bench.load import Load, Stream
from tests.bench.report import Row, markdown, write
from tests.bench.server import serve
from tests.bench.timing import Effort, summarise, take_turns
from tests.bench.traffic import HEIGHT, WIDTH, clickers, embed_own_pictures
from tests.bench.weights import golden_state, save_checkpoint
from tests.golden.recipe import image, sample_indices

GOLDEN = Path(__file__).parents[1] / "golden"
CLICK = Prompt(points=((500.0, 375.0),), labels=(1,))
PROMPTS = 64

GOLDEN_TOLERANCE = {"embedding": 1e-4, "logits": 5e-2, "IoU": 5e-3}
"""Attention of golden weights enlarges rounding ten thousandfold: 4e-7 in the embedding becomes 3e-3 in the logits
on a CPU, from the number of threads alone. So the embedding is held tightly, and the masks by check_masks."""

LEAST_MEAN_IOU = {"float32": 0.998, "bfloat16": 0.97, "float16": 0.97}
"""Of structured masks, with those of float32 on the CPU."""


class Wrong(Exception):
    """An answer is not what it must be; nothing is timed."""


class Session:
    """One run: which variant and device, how much effort, and the rows so far."""

    def __init__(self, *, rehearse: bool, folder: Path) -> None:
        self.rehearse = rehearse
        self.folder = folder
        self.device = "cpu" if rehearse else "cuda"
        self.variant = "sam2.1_hiera_tiny" if rehearse else "sam2.1_hiera_large"
        self.rows: list[Row] = []

    def add(self, section: str, case: str, **values: float) -> None:
        """Keep a row, and say it at once: a run that is cut off has then said what it knew."""
        self.rows.append(Row(section, case, f"{self.variant} on {self.device}", values))
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"{section}: {case}: {shown}", flush=True)

    def effort(self, seconds: float) -> Effort:
        """How long to time one case."""
        return Effort(0.0, least=2) if self.rehearse else Effort(seconds, least=10, most=500)

    def wait(self) -> None:
        """Let the device end all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def runner(self, variant: str, *, checkpoint: Path | None, dtype: str) -> Sam2Runner:
        """A runner on this run's device."""
        return load_runner(variant, checkpoint=checkpoint, device=self.device, dtype=dtype)


def check_goldens(session: Session) -> None:
    """Embedding, logits and IoU of the golden clicks and boxes against Meta's own numbers, in full float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    files = sorted(GOLDEN.glob("sam2*.json"))
    for file in files[-1:] if session.rehearse else files:
        expected = json.loads(file.read_text())
        checkpoint = save_checkpoint(golden_state(expected["variant"]), session.folder / "golden.safetensors")
        runner = session.runner(expected["variant"], checkpoint=checkpoint, dtype="float32")
        embedding = runner.encode([image(**expected["image"])])[0]
        errors = [
            _sample_error(name, embedding.to_arrays(np.float32)[array], expected["embedding"][name]["sample"])
            for name, array in (
                ("image_embed", "image_embed"),
                ("feat_s0", "high_res_feats_0"),
                ("feat_s1", "high_res_feats_1"),
            )
        ]
        logit_errors, iou_errors = [], []
        for case in expected["cases"]:
            if (prompt := _lone_prompt(case["prompt"])) is None:
                continue
            found, wanted = runner.decode([(embedding, prompt)])[0], case["expected"]
            sample = wanted["low_res_logits"]["sample"]
            logit_errors.append(_sample_error(case["prompt"]["name"], found.logits.clip(-32, 32), sample))
            iou_errors.append(float(np.abs(found.iou - np.ravel(wanted["iou"])).max()))
        worst = {"embedding": max(errors), "logits": max(logit_errors), "IoU": max(iou_errors)}
        session.add("correct", f"{expected['variant']}, {len(iou_errors)} golden prompts, float32", **worst)
        if any(worst[name] > most for name, most in GOLDEN_TOLERANCE.items()):
            raise Wrong(f"{file.name}: {worst}, allowed {GOLDEN_TOLERANCE}")


def check_masks(session: Session) -> None:
    """Masks of the device in float32 and half against float32 on the CPU; weights that draw areas, see discs.py."""
    checkpoint = save_checkpoint(disc_state(session.variant), session.folder / "discs.safetensors")
    expected = _structured_masks(
        load_runner(session.variant, checkpoint=checkpoint, device="cpu", dtype="float32")
    )
    for dtype in ("float32", "bfloat16" if session.rehearse else "auto"):
        runner = session.runner(session.variant, checkpoint=checkpoint, dtype=dtype)
        pairs = list(zip(_structured_masks(runner), expected, strict=True))
        iou = [float((a & b).sum() / max(1, (a | b).sum())) for a, b in pairs]
        share = [float((a != b).mean()) for a, b in pairs]
        session.add(
            "correct",
            f"{runner.dtype_name} against float32 on the CPU, {len(pairs)} structured masks",
            mIoU=float(np.mean(iou)),
            worst_IoU=min(iou),
            pixels=float(np.mean(share)),
            worst_pixels=max(share),
        )
        if np.mean(iou) < LEAST_MEAN_IOU[runner.dtype_name]:
            raise Wrong(
                f"{runner.dtype_name} masks have a mean IoU of {np.mean(iou):.3f} with float32 on the CPU"
            )


def _structured_masks(runner: Sam2Runner) -> list[np.ndarray]:
    embedding = runner.encode([image("bench 0", WIDTH, HEIGHT)])[0]
    places = [(500.0, 375.0), (900.0, 700.0), (1500.0, 300.0), (300.0, 900.0)]
    jobs = [(embedding, Prompt(points=(place,), labels=(1,))) for place in places]
    return [
        runs(logits, height=HEIGHT, width=WIDTH).to_array()
        for prediction in runner.decode(jobs)
        for logits in prediction.logits
    ]


def time_encode(session: Session, runner: Sam2Runner) -> None:
    """One picture, pixels to embedding, and pictures a second in batches."""
    pictures = [np.roll(image("bench 0", WIDTH, HEIGHT), 50 * i, axis=1) for i in range(16)]
    for size in (1, 2) if session.rehearse else (1, 2, 4, 8, 16):
        times = _times(session, partial(runner.encode, pictures[:size]), seconds=6)
        summary = summarise(times)
        session.add(
            "encode",
            f"{size} pictures at once",
            n=summary.n,
            p50_ms=summary.median_ms,
            p95_ms=summary.p95_ms,
            per_s=size / median(times),
        )


def time_decode(session: Session, runner: Sam2Runner) -> None:
    """One click and 64 prompts at once: on the device's own clock, by the wall clock, and with the masks as RLE."""
    picture = image("bench 0", WIDTH, HEIGHT)
    embeddings = [
        runner.encode([np.roll(picture, 100 * i, axis=1)])[0] for i in range(2 if session.rehearse else 16)
    ]
    session.add("memory", "one cached picture", MiB=embeddings[0].nbytes / 2**20)
    one = [(embeddings[0], CLICK)]
    click = partial(runner.decode, one)
    if session.device == "cuda":
        session.add("decode", "one click, device time", p50_ms=median(_device_times_ms(click, 200)))
    _add_times(session, "one click", _times(session, click, seconds=6))
    _add_times(session, "one click with RLE", _times(session, partial(_answers, runner, one), seconds=6))
    crowds = {
        f"{PROMPTS} clicks on one picture": [(embeddings[0], CLICK)] * PROMPTS,
        f"{PROMPTS} clicks on {len(embeddings)} pictures": [
            (embeddings[i % len(embeddings)], CLICK) for i in range(PROMPTS)
        ],
    }
    for case, jobs in crowds.items():
        times = _times(session, partial(runner.decode, jobs), seconds=6)
        _add_times(session, case, times, per_s=PROMPTS / median(times))


def time_server(session: Session) -> None:
    """Start, embed and click over HTTP; the second start on a machine is the warm one."""
    settings = {
        "model": session.variant,
        "checkpoint": "untrained",
        "device": session.device,
        "log_level": "warning",
        "batch_images": "1",
    }
    log = session.folder / "server.log"
    with serve(settings, log=log, num_threads=machine.num_cores()) as server:
        session.add("server", "first start until ready", s=server.start_seconds)
    with serve(settings, log=log, num_threads=machine.num_cores()) as server:
        session.add("server", "second start until ready", s=server.start_seconds)
        ids = embed_own_pictures(server, 2 if session.rehearse else 16)
        seconds = 0.5 if session.rehearse else 6.0
        for count in (1, 4) if session.rehearse else (1, 4, 16, 64):
            streams = clickers(count, ids)
            load.run(Load(server.port, seconds / 4, streams))  # the first requests of a kind set things up
            _add_measured(
                session, f"clicks of {count} clients", load.run(Load(server.port, seconds, streams))["click"]
            )
        uploads = Stream("embed", "/embed", "image/jpeg", tuple(_photographs(3 if session.rehearse else 150)))
        _add_measured(session, "new pictures", load.run(Load(server.port, seconds, (uploads,)))["embed"])
        session.add("server", "peak resident size", MiB=machine.peak_resident_mib(server.pid))


def main() -> int:
    """Run every step; what is known by then is written even where a step fails."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gpu", description="Correctness, then timings."
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny variant, CPU, few repetitions")
    parser.add_argument(
        "--output", type=Path, default=Path(os.environ.get("OUT", ".bench")), help="for gpu.json"
    )
    options = parser.parse_args()
    head = machine.describe() | {"effort": "rehearsal" if options.rehearse else "full"}
    if torch.cuda.is_available() and not options.rehearse:
        head["GPU"] = torch.cuda.get_device_name()
    with TemporaryDirectory(prefix="sam2-gpu-") as folder:
        session = Session(rehearse=options.rehearse, folder=Path(folder))
        try:
            with _announced("correctness"):
                check_goldens(session)
                check_masks(session)
            with _announced("timings in process"):
                started = perf_counter()
                runner = session.runner(session.variant, checkpoint=None, dtype="auto")
                runner.warm_up()
                session.wait()
                session.add("server", "load and warm-up in process", s=perf_counter() - started)
                time_encode(session, runner)
                time_decode(session, runner)
                if session.device == "cuda":
                    peak = torch.cuda.max_memory_allocated() / 2**20
                    session.add("memory", "peak of the GPU's memory, in process", MiB=peak)
                del runner
            with _announced("timings over HTTP"):
                time_server(session)
        finally:
            write(session.rows, machine=head, folder=options.output, name="gpu")
    print(markdown(session.rows, machine=head))
    return 0


@contextmanager
def _announced(step: str) -> Iterator[None]:
    started = perf_counter()
    yield
    sys.stderr.write(f"{step}: {perf_counter() - started:.0f} s\n")


def _times(session: Session, call: Callable[[], object], *, seconds: float) -> list[float]:
    """Seconds by the wall clock, the device's work included."""

    def whole() -> None:
        call()
        session.wait()

    return take_turns({"ours": whole}, session.effort(seconds))["ours"]


def _device_times_ms(call: Callable[[], object], count: int) -> list[float]:
    """From the first to the last work of each call on the GPU's own clock."""
    times = []
    for _ in range(count):
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return times


def _answers(runner: Sam2Runner, jobs: list) -> list:
    return [
        answer(p, height=e.height, width=e.width, mask_format="rle", logit_bytes=None)
        for (e, _), p in zip(jobs, runner.decode(jobs), strict=True)
    ]


def _add_times(session: Session, case: str, seconds: list[float], **more: float) -> None:
    summary = summarise(seconds)
    session.add("decode", case, n=summary.n, p50_ms=summary.median_ms, p95_ms=summary.p95_ms, **more)


def _add_measured(session: Session, case: str, measured: load.Measured) -> None:
    summary = summarise(measured.latencies)
    session.add(
        "server",
        case,
        n=summary.n,
        p50_ms=summary.median_ms,
        p95_ms=summary.p95_ms,
        per_s=measured.per_second,
    )


def _lone_prompt(case: dict) -> Prompt | None:
    """The prompt of a golden case; None for several prompts at once and for masks of an earlier answer."""
    points, box = case.get("points", []), case.get("box")
    several = (points and isinstance(points[0][0], list)) or (box and isinstance(box[0], list))
    if several or "mask_from" in case:
        return None
    return Prompt(
        points=tuple((x, y) for x, y in points),
        labels=tuple(case.get("labels", [])),
        box=box,
        multimask_output=case["multimask_output"],
    )


def _sample_error(name: str, found: np.ndarray, expected: list[float]) -> float:
    """Relative error at the places that a golden file lists."""
    sample = found.ravel()[sample_indices(name, found.size, len(expected))].astype(np.float64)
    return float(np.linalg.norm(sample - expected) / np.linalg.norm(expected))


def _photographs(count: int) -> Iterator[bytes]:
    """JPEG files of 1800 x 1200, each another picture."""
    picture = image("upload", WIDTH, HEIGHT)
    for i in range(count):
        file = io.BytesIO()
        Image.fromarray(np.roll(picture, 11 * i, axis=1)).save(file, format="JPEG", quality=85)
        yield file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
