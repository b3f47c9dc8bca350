"""The training loop: batches in, weights out; can be cut at any time and goes on where it was.

Does not know where scenes come from, or what a step consists of.
"""

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from model.network.config import VARIANTS
from model.training.attention import PlainAttention
from model.training.kept_maps import KeptMaps
from model.training.network import WorkingCopy, initial_network
from model.training.optimiser import Optimiser
from model.training.rounds import Rounds
from model.training.state import Plan, State, check_finite

MAX_GRADIENT_NORM = 1.0
AVERAGE_DECAY = 0.999
"""Of the moving average of the weights; lower in the first steps, for the first weights to be forgotten."""

LOSS_DECAY = 0.99
BATCHES_AHEAD = 4
"""Batches that each worker keeps ready."""


class SceneLike(Protocol):
    """A picture and some of its objects."""

    @property
    def picture(self) -> npt.NDArray[np.uint8]:
        """(s, s, 3) RGB."""

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """(m, s, s), none of them empty."""


class SceneSource(Protocol):
    """Any number of scenes, each a function of its index."""

    def __getitem__(self, index: int) -> SceneLike:
        """Scene `index`, any number from 0."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run is carried out on this machine; it may differ from one resumption to the next."""

    device: torch.device
    dtype: torch.dtype
    """Precision of activations and gradients; weights stay in float32 beside it."""
    workers: int
    """Processes that make scenes; 0 makes them between the steps."""
    save_every_s: float = 300.0
    validate_every_s: float = 1800.0
    stop_after_s: float = math.inf
    """Save and stop after this time, for machines that are lent by the minute."""


@dataclass(frozen=True, slots=True)
class Report:
    """Where a run is."""

    step: int
    learning_rate: float
    seconds: float
    losses: dict[str, float]


class _Indexed(Dataset[SceneLike]):
    def __init__(self, scenes: SceneSource) -> None:
        self._scenes = scenes

    def __getitem__(self, index: int) -> SceneLike:
        return self._scenes[index]


class Trainer:
    """One run of a plan."""

    def __init__(
        self,
        plan: Plan,
        scenes: SceneSource,
        *,
        pace: Pace,
        state: State | None,
        start: dict[str, Tensor] | None,
        kept: KeptMaps | None = None,
    ) -> None:
        """Begin, from weights `start` or from new ones, or go on from `state`. Raises PlanDiffers.

        With `kept` the trunk does not learn, and what it makes of a picture is kept there.
        """
        if state is not None:
            state.check(plan)
        self.plan, self._scenes, self._pace = plan, scenes, pace
        network = initial_network(replace(VARIANTS[plan.variant], image_size=plan.side), seed=plan.seed)
        if start is not None:
            network.load_state_dict(start)
        if state is not None:
            network.load_state_dict(state.network)
        network.image_encoder.trunk.requires_grad_(requires_grad=kept is None)
        self.network, self._kept = network.to(pace.device), kept
        self._weights = list(self.network.state_dict().values())
        self._average = {name: x.clone() for name, x in self.network.state_dict().items()}
        self._optimiser = Optimiser(self.network)
        self.step, self._losses, self._seconds = 0, dict[str, float](), 0.0
        if state is not None:
            self._average = {name: x.to(pace.device) for name, x in state.average.items()}
            self._optimiser.load_state_dict(state.optimiser)
            self.step, self._losses, self._seconds = state.step, dict(state.losses), state.seconds
        self._copy = WorkingCopy(self.network, dtype=pace.dtype)
        self._fresh_losses: list[dict[str, Tensor]] = []

    def run(
        self,
        folder: Path,
        *,
        validate: Callable[[dict[str, Tensor]], dict[str, float]],
        note: Callable[[dict[str, object]], None],
        stop: Callable[[], bool],
    ) -> bool:
        """Train to the last step, or until `stop` says so; True where the last step is done.

        Saves into `folder`. Passes the averaged weights to `validate`, and its result and the losses to `note`.
        Raises Diverged, and OSError where the state cannot be written; what was saved before stays.
        """
        begun = saved = validated = monotonic()
        before = self._seconds
        figures: dict[str, float] = {}
        with tqdm(total=self.plan.steps, initial=self.step, unit="step", disable=None, smoothing=0.05) as bar:
            for pictures, masks in self._batches():
                self.take_step(pictures, masks)
                now = monotonic()
                self._seconds = before + now - begun
                is_last = self.step == self.plan.steps
                ends = is_last or stop() or now - begun > self._pace.stop_after_s
                if self.step % 20 == 0 or ends:
                    report = self.report()
                    bar.set_postfix(_shown(report.losses | figures), refresh=False)
                    note(asdict(report))
                bar.update()
                if now - saved > self._pace.save_every_s or ends:
                    self.state().save(folder)
                    saved = monotonic()
                if now - validated > self._pace.validate_every_s or is_last:
                    figures = validate(self.averaged())
                    note({"step": self.step, "held_out": figures})
                    validated = monotonic()
                if ends:
                    return is_last
        return True

    def take_step(self, pictures: Tensor, masks: Tensor) -> None:
        """One step on pictures (b, s, s, 3) uint8 and masks (b, m, s, s) bool."""
        device = self._pace.device
        chance = np.random.default_rng([self.plan.seed, self.step])
        network = self._copy.network
        batch = [x.to(device, non_blocking=True) for x in (pictures, masks)]
        with PlainAttention() if device.type == "cpu" else nullcontext():
            encode = partial(self._kept.encode, network) if self._kept else None
            loss = Rounds(network, *batch, chance=chance, encode=encode).play()
            loss.total.backward()
        self._copy.hand_over_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self._optimiser.step(learning_rate(self.plan, self.step))
        self._copy.follow()
        self.step += 1
        follow_average(list(self._average.values()), self._weights, step=self.step)
        self._fresh_losses.append({"loss": loss.total.detach(), "gradient": norm, **loss.parts})

    def report(self) -> Report:
        """Where the run is. The device is waited for, so not every step asks. Raises Diverged."""
        for parts in self._fresh_losses:
            for name, value in parts.items():
                old = self._losses.get(name, float(value))
                self._losses[name] = LOSS_DECAY * old + (1 - LOSS_DECAY) * float(value)
        self._fresh_losses.clear()
        check_finite(self._losses, step=self.step)
        return Report(self.step, learning_rate(self.plan, self.step), self._seconds, dict(self._losses))

    def averaged(self) -> dict[str, Tensor]:
        """The moving average of the weights, float32, on the CPU."""
        return {name: x.cpu() for name, x in self._average.items()}

    def state(self) -> State:
        """All that is needed to go on as if nothing had happened."""
        return State(
            plan=self.plan,
            step=self.step,
            network=self.network.state_dict(),
            average=self._average,
            optimiser=self._optimiser.state_dict(),
            losses=self.report().losses,
            seconds=self._seconds,
        )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        workers = self._pace.workers
        indices = range(self.step * self.plan.batch, self.plan.steps * self.plan.batch)
        loader = DataLoader(
            _Indexed(self._scenes),
            batch_size=self.plan.batch,
            sampler=indices,
            num_workers=workers,
            collate_fn=_collate,
            prefetch_factor=BATCHES_AHEAD if workers else None,
            worker_init_fn=_begin_worker,
            pin_memory=self._pace.device.type != "cpu",
        )
        return iter(loader)


def learning_rate(plan: Plan, step: int) -> float:
    """Rate of step `step`, the first being 0: a linear warm-up, then a cosine to zero."""
    if step < plan.warm_up:
        return plan.learning_rate * (step + 1) / plan.warm_up
    progress = (step - plan.warm_up) / max(1, plan.steps - plan.warm_up)
    return plan.learning_rate * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def follow_average(average: list[Tensor], weights: list[Tensor], *, step: int) -> None:
    """Let the moving average of the weights see them after so many steps; at first it is nearly their mean."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(average, weights, 1 - decay)


def _collate(scenes: Sequence[SceneLike]) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(np.stack([scene.picture for scene in scenes])),
        torch.from_numpy(np.stack([scene.masks for scene in scenes])),
    )


def _begin_worker(_: int) -> None:
    """Signals are the main process's affair: it lets the workers finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _shown(figures: dict[str, float]) -> dict[str, str]:
    return {
        name: f"{value:.3f}"
        for name, value in figures.items()
        if name in ("loss", "corrected_iou", "click_iou") or "@" in name
    }
