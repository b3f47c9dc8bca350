"""`python -m model.training.held_out_clips DATA`: how well a model follows an object through clips it never saw.

The clips are made of photographs of the pack that are kept from training. By `--of training` a tracker's constants
may be chosen; by the held-out ones nothing. Does not know which tracker the model has.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from model.errors import CheckpointError
from model.masks.runs import runs
from model.runner import Sam2Runner
from model.training.clicks import central_click
from model.training.clips import FRAMES, Clip, Clips
from model.training.evaluate import add_model_options, label, load
from model.training.memory_run import read_memory_run
from model.training.pack import Mask, Pack, PackError, Pixels, read_pack
from model.training.region_and_contour import contour, region
from model.types import Embedding, Prompt
from model.video.values import Frame, MaskPrompt, ObjectMask, TrackPrompt

CLIPS = 60
STARTS = ("click", "mask")
"""What is said of the object on the first frame: one click at its middle, or all of its mask."""

ALL = "all"


class Follower(Protocol):
    """Track and MaskPromptTrack, as far as a clip needs them."""

    def prompt(self, frame: Frame, object_id: int, prompt: TrackPrompt) -> list[ObjectMask]:
        """Say where an object is."""

    def step(self, frame: Frame) -> list[ObjectMask]:
        """Follow all objects to a frame."""


class Tracking(Protocol):
    """What begins a track: model/tracking.py has it."""

    def begin(self, *, num_frames: int) -> Follower:
        """Begin one."""


class VideoModel(Protocol):
    """What is measured: Sam2Runner has it."""

    @property
    def tracking(self) -> Tracking:
        """Its tracker."""

    def encode(self, images: Sequence[Pixels]) -> list[Embedding]:
        """One embedding for each picture (h, w, 3)."""


@dataclass(frozen=True, slots=True)
class Followed:
    """One object through one clip: means over its frames after the first."""

    start: str
    kind: str
    j: float
    f: float
    presence: float
    """Share of the frames on which it is said rightly whether the object is there."""


@dataclass(frozen=True, slots=True)
class Row:
    """Means over some clips."""

    clips: int
    j: float
    f: float
    presence: float

    @property
    def j_and_f(self) -> float:
        """DAVIS' figure of both."""
        return (self.j + self.f) / 2


def follow(model: VideoModel, clip: Clip) -> list[Followed]:
    """Follow the object of a clip from each of `STARTS`, as objects of one track."""
    track = model.tracking.begin(num_frames=len(clip.frames))
    first = Frame(0, model.encode([clip.frames[0]])[0])
    prompts: tuple[TrackPrompt, ...] = (_click_on(clip.masks[0]), MaskPrompt(clip.masks[0]))
    for number, prompt in enumerate(prompts):
        track.prompt(first, number, prompt)
    track.step(first)
    scores: list[list[tuple[float, float, bool]]] = [[] for _ in STARTS]
    for index in range(1, len(clip.frames)):
        truth = clip.masks[index]
        for line, shown in zip(
            scores, track.step(Frame(index, model.encode([clip.frames[index]])[0])), strict=True
        ):
            found = _mask_of(shown, truth)
            line.append((region(found, truth), contour(found, truth), found.any() == truth.any()))
    means = [np.mean(line, axis=0).tolist() for line in scores]
    return [Followed(start, clip.kind.value, *mean) for start, mean in zip(STARTS, means, strict=True)]


def rows(followed: Iterable[Followed]) -> dict[tuple[str, str], Row]:
    """By start and kind, and by start over all kinds."""
    lines: dict[tuple[str, str], list[Followed]] = defaultdict(list)
    for each in followed:
        lines[each.start, ALL].append(each)
        lines[each.start, each.kind].append(each)
    return {
        name: Row(len(line), *np.mean([(x.j, x.f, x.presence) for x in line], axis=0).tolist())
        for name, line in lines.items()
    }


def table(found: dict[tuple[str, str], Row]) -> str:
    """All figures, as Markdown: a line for each kind, the starts beside each other."""
    heads = ["", "clips", *(f"{start}: {head}" for start in STARTS for head in ("J", "F", "J&F", "presence"))]
    lines = [heads, ["---"] * len(heads)]
    for kind in dict.fromkeys(kind for _, kind in found):
        parts = [found[start, kind] for start in STARTS]
        cells = [f"{x:.3f}" for row in parts for x in (row.j, row.f, row.j_and_f, row.presence)]
        lines.append([kind, str(parts[0].clips), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def clips_of(pack: Pack, part: str, *, frames: int, seed: int) -> Clips:
    """Clips of the photographs held out, or of all else. Raises PackError where there is nothing to follow."""
    return Clips(pack.held_out() if part == "held-out" else pack.training(), frames=frames, seed=seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 where the pack or the weights are not to be had."""
    parser = argparse.ArgumentParser(
        prog="python -m model.training.held_out_clips",
        description="How well a model follows an object through clips of photographs held out.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the training pack")
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--frames", type=int, default=FRAMES, help="of each clip")
    parser.add_argument("--seed", type=int, default=0, help="of the clips")
    parser.add_argument(
        "--of",
        choices=("held-out", "training"),
        default="held-out",
        help="which photographs clips are made of",
    )
    parser.add_argument(
        "--memory",
        type=Path,
        metavar="RUN",
        help="follow by what model.training.memory learnt in this folder",
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)
    try:
        clips = clips_of(read_pack(args.data), args.of, frames=args.frames, seed=args.seed)
        model, runner, tracker = _model(args)
        followed = [
            each
            for clip in tqdm(
                clips.first(args.clips),
                total=args.clips,
                desc="clips",
                unit="clip",
                disable=None,
                leave=False,
            )
            for each in follow(model, clip)
        ]
    except (PackError, CheckpointError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    found = rows(followed)
    print(
        f"{label(runner)}, {tracker}: {args.clips} {args.of} clips of {args.frames} frames, "
        f"seed {args.seed}\n\n{table(found)}"
    )
    if args.json is not None:
        context = {"model": label(runner), "weights": runner.fingerprint, "tracker": tracker}
        by_name = {f"{start}, {kind}": asdict(row) for (start, kind), row in found.items()}
        args.json.write_text(json.dumps(context | {"of": args.of, "rows": by_name}, indent=1) + "\n")
    return 0


def _model(args: argparse.Namespace) -> tuple[VideoModel, Sam2Runner, str]:
    """What follows, the runner that encodes for it, and the tracker in words."""
    if args.memory is not None:
        run = read_memory_run(args.memory, side=args.side, weights_dir=args.weights_dir)
        return run, run.runner, f"memory after {run.step:,} steps"
    runner = load(args)
    return runner, runner, f"tracker {runner.tracking.kind}"


def _click_on(truth: Mask) -> Prompt:
    nothing = np.zeros_like(truth)
    click = central_click(truth, nothing, excluded=nothing)
    if click is None:
        raise ValueError("the object is not on the first frame")
    return Prompt(points=((float(click.x), float(click.y)),), labels=(1,), multimask_output=True)


def _mask_of(shown: ObjectMask, truth: Mask) -> Mask:
    if not shown.visible or shown.logits is None:
        return np.zeros_like(truth)
    height, width = truth.shape
    return np.asarray(runs(shown.logits, height=height, width=width).to_array(), np.bool_)


if __name__ == "__main__":
    sys.exit(main())
