"""`python -m model.training.evaluate DATA`: how well a model finds objects from clicks, as a table.

Uses the same encode and decode as the server. Does not know about training.
"""

import argparse
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import cv2
import numpy as np
from tqdm import tqdm

from model.checkpoints.download import locate
from model.errors import CheckpointError
from model.network.config import BUILTIN, VARIANTS
from model.runner import Sam2Runner, load_runner
from model.training.clicks import Mask
from model.training.objects import Annotated, DataError, read_annotated
from model.training.sessions import (
    MAX_CLICKS,
    Estimate,
    Model,
    PicturePredictor,
    Session,
    iou_of,
    play_session,
)
from model.types import Pixels

UNTRAINED = "untrained"
GRABCUT_ITERATIONS = 5


@dataclass(frozen=True, slots=True)
class Figures:
    """What one model reaches on one set."""

    name: str
    objects: int
    miou_at_1: float
    miou_at_3: float
    miou_at_5: float
    noc_85: float
    """Mean clicks to an IoU of 0.85, 20 where it is not reached."""
    noc_90: float
    pearson_first: float
    """Correlation of predicted with true IoU, over the three masks of every first click."""
    pearson_later: float
    """The same over the masks of all later clicks."""
    encode_ms: float
    """Median."""
    click_ms: float
    """Median, of prediction and mask together."""
    classical_miou: float
    """OpenCV's grabCut from the true box: what needs no network."""


def figures(
    name: str, sessions: Sequence[Session], *, encode_times: Sequence[float], classical: Sequence[float]
) -> Figures:
    """Sum up sessions of 20 clicks; times in seconds, `classical` the IoU of grabCut on each object."""
    ious = np.array([session.ious for session in sessions])
    return Figures(
        name=name,
        objects=len(sessions),
        miou_at_1=float(ious[:, 0].mean()),
        miou_at_3=float(ious[:, 2].mean()),
        miou_at_5=float(ious[:, 4].mean()),
        noc_85=clicks_to(ious, 0.85),
        noc_90=clicks_to(ious, 0.90),
        pearson_first=correlation(x for session in sessions for x in session.first_estimates),
        pearson_later=correlation(x for session in sessions for x in session.later_estimates),
        encode_ms=1000 * median(encode_times),
        click_ms=1000 * median(time for session in sessions for time in session.click_times),
        classical_miou=float(np.mean(classical)),
    )


def clicks_to(ious: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", wanted: float) -> float:
    """Mean number of the first click that brings the wanted IoU, of (objects, clicks); all clicks if none does."""
    reached = ious >= wanted
    return float(np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, ious.shape[1]).mean())


def correlation(estimates: Iterable[Estimate]) -> float:
    """Pearson's; NaN where there are too few estimates, or all are equal."""
    pairs = np.array([(x.predicted, x.true) for x in estimates]).reshape(-1, 2)
    if len(pairs) < 2 or (pairs == pairs[0]).all(axis=0).any():
        return float("nan")
    return float(np.corrcoef(pairs.T)[0, 1])


def grabcut_iou(pixels: Pixels, truth: Mask, *, ignored: Mask) -> float:
    """IoU of what OpenCV's grabCut finds in the object's true bounding box, in five iterations."""
    columns, rows = np.flatnonzero(truth.any(axis=0)), np.flatnonzero(truth.any(axis=1))
    box = (int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    if box[2:] == truth.shape[::-1]:  # without background to learn from, it can only return the box
        return iou_of(np.ones_like(truth), truth, ignored=ignored)
    labels = np.zeros(truth.shape, np.uint8)
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(pixels[..., ::-1]),
        labels,
        box,
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        GRABCUT_ITERATIONS,
        cv2.GC_INIT_WITH_RECT,
    )
    found = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return iou_of(found, truth, ignored=ignored)


def evaluate(model: Model, pictures: Sequence[Annotated], *, name: str) -> Figures:
    """Click on every object of every picture."""
    sessions: list[Session] = []
    encode_times: list[float] = []
    classical: list[float] = []
    for picture in tqdm(pictures, desc=name, unit="picture", disable=None):
        begun = perf_counter()
        embedding = model.encode([picture.pixels])[0]
        encode_times.append(perf_counter() - begun)
        for truth in picture.masks:
            sessions.append(play_session(PicturePredictor(model, embedding), truth, ignored=picture.ignored))
            classical.append(grabcut_iou(picture.pixels, truth, ignored=picture.ignored))
    return figures(name, sessions, encode_times=encode_times, classical=classical)


def table(found: Figures) -> str:
    """The figures and the classical floor, as Markdown."""
    heads = ("", "mIoU@1", "mIoU@3", "mIoU@5", "NoC@85", "NoC@90", "r first", "r later", "encode", "click")
    ours = (
        found.name,
        *(f"{x:.3f}" for x in (found.miou_at_1, found.miou_at_3, found.miou_at_5)),
        *(f"{x:.2f}" for x in (found.noc_85, found.noc_90)),
        *(f"{x:.2f}" for x in (found.pearson_first, found.pearson_later)),
        f"{found.encode_ms:.0f} ms",
        f"{found.click_ms:.1f} ms",
    )
    classical = ("grabCut, true box", f"{found.classical_miou:.3f}", *[""] * 8)
    rows = (heads, ("---",) * len(heads), ours, classical)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options by which `load` knows what to measure, and where the figures go."""
    parser.add_argument("--model", choices=VARIANTS, default=BUILTIN)
    parser.add_argument("--checkpoint", help=f"file of weights instead of the model's own, or '{UNTRAINED}'")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="where released files are")
    parser.add_argument(
        "--side", type=int, help="what the model sees of a picture, in pixels; its own if not given"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--json", type=Path, help="file for the figures")


def load(args: argparse.Namespace) -> Sam2Runner:
    """The model that the options of `add_model_options` name. Raises CheckpointError or ValueError."""
    if args.checkpoint == UNTRAINED:
        checkpoint = None
    elif args.checkpoint is not None:
        checkpoint = Path(args.checkpoint)
    else:
        checkpoint = locate(args.model, weights_dir=args.weights_dir)
    return load_runner(
        args.model, checkpoint=checkpoint, device=args.device, dtype=args.dtype, image_size=args.side
    )


def label(runner: Sam2Runner) -> str:
    """The model, and how it ran, for a table."""
    side = runner.config.image_size
    return f"{runner.name}, {side} px, {runner.dtype_name}, {runner.device_name}"


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 where the data or the weights are not to be had."""
    args = _parser().parse_args(arguments)
    try:
        pictures = list(read_annotated(args.data))
        runner = load(args)
    except (DataError, CheckpointError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    runner.warm_up()
    found = evaluate(runner, pictures, name=label(runner))
    print(f"{args.data.name}: {found.objects} objects, {MAX_CLICKS} clicks at most\n\n{table(found)}")
    if args.json is not None:
        context = {"data": args.data.name, "weights": runner.fingerprint, "machine": platform.processor()}
        args.json.write_text(json.dumps(context | asdict(found), indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.training.evaluate", description="How well a model finds objects from clicks."
    )
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="a tar with annotations.jsonl, or a folder of them"
    )
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
