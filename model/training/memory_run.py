"""A memory run's weights as a tracker, as the server would run it: to be measured before anything ships.

Does not know about clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from model.checkpoints.download import locate
from model.checkpoints.halves import load_image_half
from model.cpu.video_memory import CpuVideoMemory
from model.network.config import BUILTIN, BUILTIN_IMAGE_SIZE
from model.runner import Sam2Runner
from model.training.memory_half import video_config, with_video
from model.training.state import FILE_NAME, State
from model.types import Embedding, Pixels
from model.video.network import DeviceNetwork
from model.video.track import Track


@dataclass(frozen=True, eq=False)
class RunTracking:
    """Begins tracks with memory."""

    network: DeviceNetwork
    kind: str = "memory"

    def begin(self, *, num_frames: int) -> Track:
        """Begin a track."""
        return Track(self.network, num_frames=num_frames)


@dataclass(frozen=True, eq=False)
class MemoryRun:
    """The picture half that ships, and the averaged video half of a run."""

    runner: Sam2Runner
    tracking: RunTracking
    step: int

    def encode(self, images: Sequence[Pixels]) -> list[Embedding]:
        """One embedding for each picture (h, w, 3)."""
        return self.runner.encode(images)


def read_memory_run(folder: Path, *, side: int | None, weights_dir: Path) -> MemoryRun:
    """A run's tracker, in bfloat16, at `side` or the size that ships.

    Raises StateError where there is no state, CheckpointError where the shipped file does not fit, and ValueError
    where the run had another picture half.
    """
    state = State.read(folder / FILE_NAME)
    config = video_config(side or BUILTIN_IMAGE_SIZE)
    pictures, fingerprint = load_image_half(
        replace(config, video=None),
        locate(BUILTIN, weights_dir=weights_dir),
        variant=BUILTIN,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
    )
    if state.plan.start_from != fingerprint:
        raise ValueError(f"{folder} was trained beside another picture half than the shipped one.")
    runner = Sam2Runner(pictures, name=BUILTIN, weights_fingerprint=fingerprint)
    memory = with_video(pictures, state.average, config)
    network = DeviceNetwork(pictures, memory, fast=CpuVideoMemory(memory))
    return MemoryRun(runner, RunTracking(network), state.step)
