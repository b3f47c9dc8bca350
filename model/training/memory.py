"""`python -m model.training.memory DATA OUT`: train the built-in model's video half, or go on where OUT was cut.

On clips.py's clips of the pack without the photographs held out, over features of the shipped picture half, which
stays as it is. `python -m model.training.held_out_clips DATA --memory OUT` measures it. Does not know how a clip's
loss is made.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import monotonic

import cv2
import numpy as np
import torch
from tqdm import tqdm

from model.checkpoints.download import locate
from model.cpu.threads import set_up_thread
from model.errors import CheckpointError
from model.network.config import BUILTIN
from model.training.__main__ import append_line, keep_freed_memory, signalled
from model.training.attention import PlainAttention
from model.training.clips import Clips
from model.training.frozen_clips import FrozenClips
from model.training.memory_half import LearningModel
from model.training.memory_rounds import MemoryRounds
from model.training.optimiser import Optimiser
from model.training.options import minutes, rate, whole
from model.training.pack import PackError, read_pack
from model.training.state import FILE_NAME, Diverged, Plan, PlanDiffers, State, check_finite
from model.training.trainer import LOSS_DECAY, MAX_GRADIENT_NORM, follow_average, learning_rate

FRAMES = 8
"""Of a clip: the first, and seven that remember up to four frames."""

NOTE_EVERY = 10
"""Steps."""


class MemoryTrainer:
    """One run of a plan: its `batch` is of clips, each with one object."""

    def __init__(self, plan: Plan, model: LearningModel, clips: FrozenClips, *, state: State | None) -> None:
        """Begin, or go on from `state`. Raises PlanDiffers."""
        if state is not None:
            state.check(plan)
        self.plan, self._model, self._clips = plan, model, clips
        self._optimiser = Optimiser(model.video)
        self.step, self._losses, self._seconds = 0, dict[str, float](), 0.0
        if state is None:
            first = clips[0].image_embed.float().movedim(1, -1).flatten(0, 2)
            model.video.begin_at(first - model.no_memory, model.no_memory)
        else:
            model.video.load_state_dict(state.network)
            self._optimiser.load_state_dict(state.optimiser)
            self.step, self._losses, self._seconds = state.step, dict(state.losses), state.seconds
        self._weights = list(model.video.state_dict().values())
        begun = model.video.state_dict() if state is None else state.average
        self._average = {name: x.clone() for name, x in begun.items()}

    def run(
        self,
        folder: Path,
        *,
        note: Callable[[dict[str, object]], None],
        stop: Callable[[], bool],
        save_every_s: float = 300.0,
        stop_after_s: float = math.inf,
    ) -> bool:
        """Train to the last step or until `stop` says so, and save into `folder`; True after the last step."""
        begun = saved = monotonic()
        before = self._seconds
        with tqdm(total=self.plan.steps, initial=self.step, unit="step", disable=None, smoothing=0.05) as bar:
            while self.step < self.plan.steps:
                self.take_step()
                bar.update()
                now = monotonic()
                self._seconds = before + now - begun
                ends = self.step == self.plan.steps or stop() or now - begun > stop_after_s
                if self.step % NOTE_EVERY == 0 or ends:
                    bar.set_postfix({name: f"{x:.3f}" for name, x in self._losses.items()}, refresh=False)
                    note({"step": self.step, "seconds": round(self._seconds), **self._losses})
                if now - saved > save_every_s or ends:
                    self.state().save(folder)
                    saved = monotonic()
                if ends:
                    break
        return self.step == self.plan.steps

    def take_step(self) -> None:
        """One step on the next clips, one after the other. Raises Diverged."""
        parameters = list(self._model.video.parameters())
        for place in range(self.plan.batch):
            index = self.step * self.plan.batch + place
            chance = np.random.default_rng([self.plan.seed, index])
            with PlainAttention():
                loss = MemoryRounds(self._model, self._clips[index], chance=chance).play()
                (loss.total / self.plan.batch).backward()
            for name, value in loss.parts.items():
                self._losses[name] = LOSS_DECAY * self._losses.get(name, value) + (1 - LOSS_DECAY) * value
        for parameter in parameters:  # what this step did not use, as the embedding of absence
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        check_finite(self._losses | {"gradient": float(norm)}, step=self.step)
        self._optimiser.step(learning_rate(self.plan, self.step))
        self.step += 1
        follow_average(list(self._average.values()), self._weights, step=self.step)

    def state(self) -> State:
        """All that is needed to go on as if nothing had happened."""
        return State(
            plan=self.plan,
            step=self.step,
            network=self._model.video.state_dict(),
            average=self._average,
            optimiser=self._optimiser.state_dict(),
            losses=dict(self._losses),
            seconds=self._seconds,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the last step is done or the run was asked to stop, 1 where it cannot begin."""
    args = _parser().parse_args(arguments)
    keep_freed_memory()
    cv2.setNumThreads(1)
    set_up_thread(args.threads, cpus=None)

    def clips() -> Clips:
        return Clips(read_pack(args.data).training(), side=args.side, frames=FRAMES, seed=args.seed)

    try:
        args.out.mkdir(parents=True, exist_ok=True)
        state = State.load(args.out)
        model = LearningModel(locate(BUILTIN, weights_dir=Path("weights")), side=args.side, seed=args.seed)
        plan = Plan(
            variant=BUILTIN,
            side=args.side,
            steps=args.steps,
            batch=args.batch,
            masks=1,
            learning_rate=args.learning_rate,
            warm_up=args.warm_up,
            seed=args.seed,
            start_from=model.fingerprint,
        )
        folder = args.out / f"clips-{model.fingerprint[:12]}-{args.side}-{args.seed}"
        trainer = MemoryTrainer(plan, model, FrozenClips(clips, model.pictures, folder), state=state)
        is_done = trainer.run(
            args.out,
            note=partial(append_line, args.out / "log.jsonl"),
            stop=signalled(),
            save_every_s=60 * args.save_every_min,
            stop_after_s=60 * args.stop_after_min,
        )
    except (PackError, PlanDiffers, Diverged, CheckpointError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    place = f"step {trainer.step:,} of {args.steps:,}, in {args.out / FILE_NAME}"
    print(f"Done: {place}." if is_done else f"Stopped: {place}. The same command goes on from there.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.training.memory",
        description="Train the built-in model's video half; cut at any time, it goes on.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the training pack")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder of the run: its state, log and features"
    )
    parser.add_argument(
        "--side", type=whole(32), default=320, help="pixels of the square that a frame becomes"
    )
    parser.add_argument("--steps", type=whole(1), default=6_000)
    parser.add_argument("--batch", type=whole(1), default=2, help="clips in a step")
    parser.add_argument("--learning-rate", type=rate, default=3e-4, help="at its highest")
    parser.add_argument("--warm-up", type=whole(0), default=50, help="steps")
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--threads", type=whole(1), default=1, help="of the CPU")
    parser.add_argument("--save-every-min", type=minutes, default=5.0)
    parser.add_argument(
        "--stop-after-min", type=minutes, default=math.inf, help="save and stop after so long"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
