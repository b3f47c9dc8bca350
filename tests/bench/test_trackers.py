"""Tests what the section video stands on: rounds, agreement, memory and names of weights. Needs no peers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model.network.config import VARIANTS
from model.network.memory import VideoMemory
from model.network.sam2 import Sam2
from tests.bench import report
from tests.bench.report import OURS, TRANSFORMERS
from tests.bench.trackers import Click, OurTracker, follow, grow
from tests.bench.weights import VARIANT, transformers_video_state, video_state
from tests.golden.video_recipe import frame as picture
from tests.model.video.small import small_runner

CLICKS = ((90.0, 120.0), (235.0, 70.0))


class Fake:
    """Draws a square that moves with the frame; `error` pixels of it are missing."""

    def __init__(self, calls: list[str], name: str, *, error: int = 0) -> None:
        self.calls, self.name, self.error = calls, name, error
        self.frames: list[int] = []

    def begin(self, clicks: Sequence[Click]) -> None:
        self.count, self.frames = len(clicks), [0]

    def step(self, frame: int) -> npt.NDArray[np.float32]:
        self.calls.append(self.name)
        self.frames.append(frame)
        logits = np.full((self.count, 32, 32), -1, np.float32)
        logits[:, frame : frame + 4, :8] = 1
        logits[:, frame, : self.error] = -1
        return logits

    @property
    def held_bytes(self) -> int:
        return 2**20 * len(self.frames)


def test_every_frame_is_a_round_and_the_last_one_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.timing.SETTLE_S", 0)
    calls: list[str] = []
    sides = {name: Fake(calls, name) for name in (TRANSFORMERS, OURS[0])}
    rows = list(follow(sides, CLICKS, num_frames=5))
    assert all(side.frames == [0, 1, 2, 3, 4] for side in sides.values())
    assert calls[:4] == [TRANSFORMERS, OURS[0], OURS[0], TRANSFORMERS]
    timed, _, memory, _, agreed = rows
    assert (timed.case, timed.side, timed.values["n"]) == ("2 objects, a frame", TRANSFORMERS, 3)
    assert (memory.case, memory.values["held MiB"]) == ("2 objects, a frame: memory after 5 frames", 5)
    assert memory.values["peak of a step MiB"] >= 0
    assert (agreed.side, agreed.values) == (OURS[0], {"pixels": 0, "worst_pixels": 0})


def test_masks_that_differ_miss_a_target_and_keep_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.timing.SETTLE_S", 0)
    ours, half = OURS
    for name, error, verdict in (
        (ours, 1, "met"),
        (ours, 2, "missed"),
        (half, 5, "met"),
        (half, 6, "missed"),
    ):
        sides = {TRANSFORMERS: Fake([], ""), name: Fake([], "", error=error)}
        rows = list(follow(sides, CLICKS[:1], num_frames=3))
        assert rows[-1].values["pixels"] == pytest.approx(error / 1024)
        assert "n" in rows[0].values
        lines = report.markdown(rows, machine={}).splitlines()
        (line,) = (each for each in lines if "agreement: video, 1 object, a frame" in each)
        assert line.startswith(f"| agreement: video, 1 object, a frame, against transformers | {name} |")
        assert line.endswith(f"| {verdict} |")


def test_our_side_is_the_services_track_and_does_not_grow() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runner, memory = small_runner()
        runner.tracking._source = type("Source", (), {"load": lambda *_, **__: memory})()
        (embedding,) = runner.encode([picture(0)])
        side = OurTracker(runner, [embedding] * 30)
        grown = grow(side, CLICKS, num_frames=30, settled=20)
        assert grown["held bytes, growth"] == 0
        assert side.step(29).shape == (2, 32, 32)
    finally:
        torch.set_num_threads(threads)


def test_memory_that_grows_is_seen() -> None:
    grown = grow(Fake([], ""), CLICKS, num_frames=30, settled=20)
    assert (grown["frames"], grown["held bytes, growth"]) == (30, 10 * 2**20)


def test_transformers_gets_every_weight_of_both_halves_once() -> None:
    with torch.device("meta"):
        state = Sam2(VARIANTS[VARIANT]).state_dict() | VideoMemory(VARIANTS[VARIANT]).state_dict()
    converted = transformers_video_state(state)
    # Four point embeddings become one table, and the frequencies appear twice.
    assert len(converted) == len(state) - 4 + 1 + 1
    shapes = {name: tuple(tensor.shape) for name, tensor in converted.items()}
    assert shapes["memory_encoder.mask_downsampler.layers.3.conv.weight"] == (256, 64, 3, 3)
    assert shapes["memory_encoder.mask_downsampler.layers.0.layer_norm.bias"] == (4,)
    assert shapes["memory_encoder.mask_downsampler.final_conv.weight"] == (256, 256, 1, 1)
    assert shapes["memory_encoder.memory_fuser.layers.1.scale"] == (256,)
    assert shapes["memory_encoder.projection.weight"] == (64, 256, 1, 1)
    assert shapes["memory_attention.layers.3.cross_attn_image.o_proj.weight"] == (256, 256)
    assert shapes["memory_attention.layers.0.layer_norm3.weight"] == (256,)
    assert shapes["object_pointer_proj.proj_out.bias"] == (256,)
    assert shapes["temporal_positional_encoding_projection_layer.weight"] == (64, 256)
    assert "mask_downsample.weight" in shapes


def test_the_weights_are_those_of_the_goldens_for_videos() -> None:
    state = video_state(VARIANT)
    assert state["no_obj_ptr"].abs().max() > 1  # 64 times that of the goldens for pictures
    assert "maskmem_tpos_enc" in state
