"""A training run on disk: what was planned and how far it is; saved whole or not at all.

Does not know what the values mean.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

FILE_NAME = "state.pt"


class PlanDiffers(Exception):
    """A run cannot go on under another plan than it began with. The message says what differs."""


class Diverged(Exception):
    """A run's numbers are not finite any more. The message says what to do."""


class StateError(ValueError):
    """A file is no state of a run. The message names it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the weights that come out, apart from the data and the machine's rounding."""

    variant: str
    side: int
    """Pixels of the square that a picture becomes, while training."""
    steps: int
    batch: int
    """Pictures in one step."""
    masks: int
    """Masks of each picture."""
    learning_rate: float
    """At its highest, after the warm-up; from there by a cosine to zero."""
    warm_up: int
    """Steps."""
    seed: int
    start_from: str
    """Fingerprint of the weights to begin with; empty for new ones."""
    photographs: bool = False
    """Whether all but the trunk learns, on photographs as they are."""


@dataclass(slots=True)
class State:
    """A run between two steps."""

    plan: Plan
    step: int
    """Steps done."""
    network: dict[str, Tensor]
    average: dict[str, Tensor]
    """Moving average of the network's weights: what is evaluated and exported."""
    optimiser: dict[str, Any]
    losses: dict[str, float]
    """Moving averages, for the progress bar."""
    seconds: float
    """Spent so far."""

    def save(self, folder: Path) -> None:
        """Write the state into `folder`; what was there stays until the new file is whole.

        Raises OSError where it cannot be written, as on a full disk.
        """
        partial = folder / f"{FILE_NAME}.part"
        values = {name: getattr(self, name) for name in self.__slots__} | {"plan": asdict(self.plan)}
        try:
            with partial.open("wb") as file:
                torch.save(values, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(folder / FILE_NAME)
        except (OSError, RuntimeError) as error:  # torch.save turns some of the one into the other
            partial.unlink(missing_ok=True)
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise OSError(f"{folder / FILE_NAME} cannot be written: {cause}.") from error

    @classmethod
    def load(cls, folder: Path) -> "State | None":
        """The state in `folder`, on the CPU; None where there is none."""
        path = folder / FILE_NAME
        return cls.read(path) if path.is_file() else None

    @classmethod
    def read(cls, path: Path) -> "State":
        """The state in a file, on the CPU.

        Raises StateError where the file is something else, and OSError where there is none.
        """
        try:
            values = torch.load(path, map_location="cpu", weights_only=True)
            return cls(**values | {"plan": Plan(**values["plan"])})
        except (UnpicklingError, EOFError, RuntimeError, KeyError, TypeError) as error:
            raise StateError(f"{path} is no state of a run, or is damaged.") from error

    def check(self, plan: Plan) -> None:
        """Raise PlanDiffers unless `plan` is the one that this run began with."""
        wanted, begun = asdict(plan), asdict(self.plan)
        differing = [
            f"{name} {begun[name]!r}, not {wanted[name]!r}" for name in begun if begun[name] != wanted[name]
        ]
        if differing:
            raise PlanDiffers(
                f"This run began with {'; '.join(differing)}. Give the same values to go on from step "
                f"{self.step:,}, or another folder to begin anew."
            )


def check_finite(losses: Mapping[str, float], *, step: int) -> None:
    """Raise Diverged where loss or gradient is NaN or infinite: the weights are lost, and are not saved."""
    broken = [
        f"{name} {losses[name]}" for name in ("loss", "gradient") if not math.isfinite(losses.get(name, 0))
    ]
    if broken:
        raise Diverged(
            f"Training has diverged by step {step:,}: {', '.join(broken)}. Begin again in another folder, with a "
            "lower --learning-rate."
        )
