"""`python -m model.training DATA OUT`: train the built-in model, or go on where the last run in OUT was cut."""

import argparse
import ctypes
import json
import math
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import FrameType

import cv2
import torch
from torch import Tensor

from model.cpu.threads import set_up_thread
from model.devices import resolve_device, resolve_dtype
from model.network.config import BUILTIN
from model.training.discs import DiscsFirst
from model.training.export import read_weights
from model.training.held_out import validation_figures
from model.training.kept_maps import KeptMaps
from model.training.options import minutes, rate, whole
from model.training.pack import Pack, PackError, read_pack
from model.training.photographs import Photographs
from model.training.scenes import Scenes
from model.training.segments import with_segments
from model.training.state import FILE_NAME, Diverged, Plan, PlanDiffers, State
from model.training.trainer import Pace, SceneSource, Trainer

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Options of mallopt(3)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the last step is done or the run was asked to stop, 1 where it cannot begin or go on."""
    args = _parser().parse_args(arguments)
    keep_freed_memory()
    cv2.setNumThreads(1)  # its calls are small; callers with many of them have their own threads
    set_up_thread(args.threads or max(1, (os.cpu_count() or 1) - args.workers), cpus=None)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        state = State.load(args.out)
        start = read_weights(args.start_from) if args.start_from else None
        pack = read_pack(args.data)
        device = resolve_device(args.device)
        plan = Plan(
            variant=BUILTIN,
            side=args.side,
            steps=args.steps,
            batch=args.batch,
            masks=args.masks,
            learning_rate=args.learning_rate,
            warm_up=args.warm_up,
            seed=args.seed,
            start_from=fingerprint(start) if start else "",
            photographs=args.photographs,
        )
        if plan.photographs and start is None:
            raise ValueError("--photographs trains all but the trunk: give weights with --start-from.")
        trainer = Trainer(
            plan,
            _scenes(pack.training(), plan, cache=args.cache or args.out / "segments"),
            pace=Pace(
                device=device,
                dtype=training_dtype(args.dtype, device),
                workers=args.workers,
                save_every_s=60 * args.save_every_min,
                validate_every_s=60 * args.validate_every_min,
                stop_after_s=60 * args.stop_after_min,
            ),
            state=state,
            start=start,
            kept=KeptMaps(args.out / "maps") if plan.photographs else None,
        )
    except (PackError, PlanDiffers, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    validate = partial(validation_figures, pack, side=args.side, device=args.device)
    try:
        is_done = trainer.run(
            args.out, validate=validate, note=partial(append_line, args.out / "log.jsonl"), stop=signalled()
        )
    except (Diverged, OSError) as error:
        print(f"{error} {left_in(args.out)}", file=sys.stderr)
        return 1
    place = f"step {trainer.step:,} of {args.steps:,}, in {args.out / FILE_NAME}"
    print(f"Done: {place}." if is_done else f"Stopped: {place}. The same command goes on from there.")
    return 0


def _scenes(pack: Pack, plan: Plan, *, cache: Path) -> SceneSource:
    if plan.photographs:
        return Photographs(pack, side=plan.side, masks_per_scene=plan.masks, seed=plan.seed)
    pack = with_segments(pack, cache)
    return DiscsFirst(
        Scenes(pack, side=plan.side, masks_per_scene=plan.masks, seed=plan.seed),
        until=0 if plan.start_from else plan.batch * plan.warm_up,
        side=plan.side,
        masks_per_scene=plan.masks,
        seed=plan.seed,
    )


def fingerprint(weights: dict[str, Tensor]) -> str:
    """Names weights in a plan: the beginning of a SHA-256 over them, in order of name."""
    digest = sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().data)
    return digest.hexdigest()[:16]


def training_dtype(name: str, device: torch.device) -> torch.dtype:
    """Precision of activations and gradients: "auto" is bfloat16 where the device is fast at it, else float32."""
    dtype = resolve_dtype(name, device)
    return torch.float32 if dtype == torch.float16 else dtype  # float16 would need its losses scaled


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step; else tensors come as new pages, to be zeroed each time."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((_M_MMAP_THRESHOLD, 32 * 2**20), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)


def signalled() -> Callable[[], bool]:
    """Asks whether Ctrl-C or SIGTERM has come; neither ends the process any longer."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return lambda: bool(came)


def append_line(path: Path, values: dict[str, object]) -> None:
    """Add a line of JSON to a run's log."""
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")


def left_in(folder: Path) -> str:
    """Say what a run that failed leaves in its folder."""
    if (folder / FILE_NAME).is_file():
        return f"What was saved before is still in {folder / FILE_NAME}."
    return f"Nothing was saved in {folder} before."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.training", description="Train the built-in model; cut at any time, it goes on."
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the training pack")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the run: its state, its log")
    plan = parser.add_argument_group("the plan, which a run keeps from its first step to its last")
    plan.add_argument(
        "--side", type=whole(32), default=256, help="pixels of the square that a picture becomes"
    )
    plan.add_argument("--steps", type=whole(1), default=20_000)
    plan.add_argument("--batch", type=whole(1), default=8, help="pictures in a step")
    plan.add_argument("--masks", type=whole(1), default=4, help="masks of each picture")
    plan.add_argument("--learning-rate", type=rate, default=3e-4, help="at its highest")
    plan.add_argument("--warm-up", type=whole(0), default=500, help="steps")
    plan.add_argument("--seed", type=whole(0), default=0)
    plan.add_argument("--start-from", type=Path, help="a run's folder or exported weights to begin with")
    plan.add_argument(
        "--photographs",
        action="store_true",
        help="train all but the trunk, on photographs as they are. What the trunk makes of them is kept in "
        "OUT/maps, up to 11 GB at 448 px",
    )
    pace = parser.add_argument_group("how it is carried out on this machine")
    pace.add_argument("--device", default="auto")
    pace.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    pace.add_argument("--workers", type=whole(0), default=1, help="processes that make scenes")
    pace.add_argument(
        "--threads",
        type=whole(1),
        help="of the steps, on a CPU; if not given, one for each core that the workers leave. Too many wait for "
        "each other whenever another process runs.",
    )
    pace.add_argument(
        "--cache", type=Path, help="folder of the photographs' regions; OUT/segments if not given"
    )
    pace.add_argument("--save-every-min", type=minutes, default=5.0)
    pace.add_argument("--validate-every-min", type=minutes, default=30.0)
    pace.add_argument("--stop-after-min", type=minutes, default=math.inf, help="save and stop after so long")
    return parser


if __name__ == "__main__":
    sys.exit(main())
