"""Section video: objects followed through frames that are encoded already, by us and by transformers.

The weights are those of the goldens for videos, which damp rounding, so that masks can be compared to the last
frame. Does not know about encoding, HTTP or files of videos.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from model.runner import Sam2Runner, load_runner
from tests.bench.peer_tracker import TransformersTracker
from tests.bench.report import OURS, TRACK_GROWTH, TRANSFORMERS, Row
from tests.bench.trackers import OurTracker, Tracker, follow, grow
from tests.bench.weights import VARIANT, save_checkpoint, video_state
from tests.bench.workbench import Workbench
from tests.golden.video_recipe import frame as picture

FRAMES, QUICK_FRAMES = {1: 20, 4: 10}, {1: 10}
"""By how many objects there are. After eight frames, a step sees seven memories. More frames with 4 objects would
take the section over ten minutes on two quiet cores, by what a step takes there.
"""
CLICKS = ((90.0, 120.0), (235.0, 70.0), (240.0, 185.0), (160.0, 30.0))
"""On the disc, the box, what leaves the picture, and the texture."""
PEER_IN_HALF = f"{TRANSFORMERS} bfloat16"
PEERS = {TRANSFORMERS: torch.float32, PEER_IN_HALF: torch.bfloat16}

LONG_FRAMES, QUICK_LONG_FRAMES = 500, 100
SETTLED = {LONG_FRAMES: 150, QUICK_LONG_FRAMES: 60}
"""From frame 150 on, neither the process nor what malloc has given out grew in 350 frames."""
LONG_IMAGE_SIZE = 256
"""Where a step takes a hundredth of the time, and remembers as many frames."""


def video(bench: Workbench) -> Iterator[Row]:
    """Follow 4 objects through many frames; time steps of 1 and 4 objects, and compare masks and memory."""
    state = video_state(VARIANT)
    checkpoint = save_checkpoint(state, bench.folder / "video.safetensors")
    yield _many_frames(checkpoint, quick=bench.quick)  # first: what it needs of memory is nobody else's
    yield from _against_peers(state, checkpoint, quick=bench.quick, ours=bench.ours)


def _against_peers(
    state: dict[str, torch.Tensor], checkpoint: Path, *, quick: bool, ours: Sequence[str]
) -> Iterator[Row]:
    cases = QUICK_FRAMES if quick else FRAMES
    pictures = [picture(i) for i in range(max(cases.values()))]
    runners = {name: _runner(checkpoint, name) for name in ours}
    embeddings = {name: [runner.encode([each])[0] for each in pictures] for name, runner in runners.items()}
    maps = [each.to_arrays(np.float32) for each in embeddings[ours[0]]]
    height, width, _ = pictures[0].shape
    sides: dict[str, Tracker] = {
        name: TransformersTracker(state, maps, dtype=dtype, size=(height, width))
        for name, dtype in PEERS.items()
        if name == TRANSFORMERS or OURS[1] in ours
    }
    sides |= {name: OurTracker(runners[name], embeddings[name]) for name in ours}
    for count, frames in cases.items():
        # The peer's bfloat16 is there to be compared once.
        chosen = {name: side for name, side in sides.items() if count == 1 or name != PEER_IN_HALF}
        yield from follow(chosen, CLICKS[:count], num_frames=frames)


def _many_frames(checkpoint: Path, *, quick: bool) -> Row:
    """Whether memory grows while 4 objects are followed. Few embeddings repeat."""
    runner = _runner(checkpoint, OURS[0], image_size=LONG_IMAGE_SIZE)
    few = [runner.encode([picture(i)])[0] for i in range(4)]
    count = QUICK_LONG_FRAMES if quick else LONG_FRAMES
    side = OurTracker(runner, [few[i % len(few)] for i in range(count)])
    if runner.threads is not None:
        # Libraries have buffers for each thread, 20 MiB for the second, which other processes may keep unused.
        for number in range(1, runner.threads.most + 1):
            runner.threads.now = number
            side.begin(CLICKS)
    values = grow(side, CLICKS, num_frames=count, settled=SETTLED[count])
    return Row("video", TRACK_GROWTH, OURS[0], values)


def _runner(checkpoint: Path, name: str, *, image_size: int | None = None) -> Sam2Runner:
    dtype = name.removeprefix("ours ")
    return load_runner(VARIANT, checkpoint=checkpoint, device="cpu", dtype=dtype, image_size=image_size)
