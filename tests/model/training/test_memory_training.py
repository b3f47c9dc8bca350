"""The video half's training: it learns, goes on where it was cut, leaves pictures alone, and is what tracks run."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoints.download import locate
from model.network.config import BUILTIN
from model.runner import load_runner
from model.training import held_out_clips, memory
from model.training.clips import Clips
from model.training.frozen_clips import POOL, FrozenClip, FrozenClips
from model.training.memory import MemoryTrainer
from model.training.memory_half import LearningModel
from model.training.memory_rounds import MemoryRounds
from model.training.memory_run import read_memory_run
from model.training.pack import Pack
from model.training.state import Plan, State
from model.types import Prompt
from model.video.values import Frame, MaskPrompt
from tests.model.training.packs import background, photograph, striped, write_pack

SIDE = 64
CHECKPOINT = locate(BUILTIN, weights_dir=Path("weights"))
PLAN = Plan(BUILTIN, SIDE, 2, 1, 1, 1e-3, 1, 0, "")
PACK = Pack((photograph("a.jpg"),), (), (background(),))


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    handlers = [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)]
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
        signal.signal(number, handler)


def learning() -> LearningModel:
    return LearningModel(CHECKPOINT, side=SIDE, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the features of clips stay from one test to the next."""
    return tmp_path_factory.mktemp("features")


def clips() -> Clips:
    return Clips(PACK, side=SIDE, frames=3)


def frozen(model: LearningModel, folder: Path) -> FrozenClips:
    return FrozenClips(clips, model.pictures, folder)


def test_features_are_made_once(folder: Path) -> None:
    model = learning()
    made = frozen(model, folder)[1]

    def fails() -> Clips:
        raise AssertionError("made again")

    again = FrozenClips(fails, model.pictures, folder)[POOL + 1]
    assert (again.image_embed == made.image_embed).all()
    assert (again.masks.numpy() == clips()[1].masks).all()
    assert again.targets.shape == (3, SIDE // 4, SIDE // 4)
    assert torch.allclose(again.targets.mean(), again.masks.float().mean())


def test_what_was_begun_learns_a_clip_and_pictures_stay_as_they_were(folder: Path) -> None:
    model = learning()
    before = {name: x.clone() for name, x in model.pictures.named_parameters()}
    one = frozen(model, folder)[0]

    class Same(FrozenClips):
        def __getitem__(self, index: int) -> FrozenClip:
            return one

    plan = replace(PLAN, steps=6, learning_rate=2e-3)
    trainer = MemoryTrainer(plan, model, Same(clips, model.pictures, folder), state=None)

    def loss() -> float:
        return float(MemoryRounds(model, one, chance=np.random.default_rng(0)).play().total.detach())

    begun = loss()
    for _ in range(plan.steps):
        trainer.take_step()
    assert loss() < 0.9 * begun
    changed = {name for name, x in model.pictures.named_parameters() if not torch.equal(x, before[name])}
    assert changed
    assert all(name.startswith("sam_mask_decoder.pred_obj_score_head.") for name in changed)


def test_a_run_that_was_cut_comes_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    whole = learning()
    trainer = MemoryTrainer(PLAN, whole, frozen(whole, folder), state=None)
    assert trainer.run(tmp_path, note=lambda _: None, stop=lambda: False)
    first = learning()
    trainer = MemoryTrainer(PLAN, first, frozen(first, folder), state=None)
    assert not trainer.run(tmp_path, note=lambda _: None, stop=lambda: True)
    second = learning()
    trainer = MemoryTrainer(PLAN, second, frozen(second, folder), state=State.load(tmp_path))
    assert trainer.run(tmp_path, note=lambda _: None, stop=lambda: False)
    for name, x in whole.video.state_dict().items():
        assert torch.equal(x, second.video.state_dict()[name]), name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack in `data`, and a run of two steps by the command."""
    place = tmp_path_factory.mktemp("memory")
    (place / "data").mkdir()
    write_pack(place / "data")
    few = ["--side", str(SIDE), "--steps", "2", "--batch", "1"]
    assert memory.main([str(place / "data"), str(place / "run"), *few]) == 0
    assert memory.main([str(place / "data"), str(place / "run"), *few]) == 0
    return place


def test_the_command_leaves_a_log_and_a_run_that_can_be_measured(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = [json.loads(line) for line in (run / "run" / "log.jsonl").read_text().splitlines()]
    assert [each["step"] for each in notes] == [2]
    assert notes[0]["loss"] > 0
    few = ["--clips", "1", "--frames", "2", "--side", str(SIDE), "--of", "training"]
    assert held_out_clips.main([str(run / "data"), "--memory", str(run / "run"), *few]) == 0
    assert "memory after 2 steps" in capsys.readouterr().out


def test_a_run_is_refused_under_another_plan_and_beside_other_pictures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [str(run / "data"), str(run / "run"), "--side", str(SIDE), "--steps", "3", "--batch", "1"]
    assert memory.main(said) == 1
    assert "began with steps 2, not 3" in capsys.readouterr().err
    state = State.load(run / "run")
    assert state is not None
    replace(state, plan=replace(state.plan, start_from="other")).save(tmp_path)
    with pytest.raises(ValueError, match="another picture half"):
        read_memory_run(tmp_path, side=SIDE, weights_dir=Path("weights"))


def test_what_is_trained_is_what_a_track_runs(run: Path) -> None:
    """The first sought frame after a mask, of training's story and of model/video's."""
    tracker = read_memory_run(run / "run", side=SIDE, weights_dir=Path("weights"))
    clip = clips()[0]
    calls: list[None] = []
    network = tracker.tracking.network.calling(lambda: calls.append(None))
    track = replace(tracker.tracking, network=network).begin(num_frames=3)
    frames = [Frame(at, tracker.encode([clip.frames[at]])[0]) for at in range(2)]
    track.prompt(frames[0], 1, MaskPrompt(clip.masks[0]))
    track.step(frames[0])
    calls.clear()
    (shown,) = track.step(frames[1])
    assert len(calls) > 10  # by the attention that serves, which pauses
    state = State.load(run / "run")
    assert state is not None
    model = learning()
    model.video.load_state_dict(state.average)
    rounds = MemoryRounds(model, FrozenClips(clips, model.pictures, run / "features")[0], chance=_MaskFirst())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounds.show()
        output, _ = rounds.seek(1)
    assert shown.logits is not None
    assert shown.object_score == pytest.approx(float(output.object_score), abs=0.1)
    chosen = output.logits[0, 1 + int(output.iou[0, 1:].argmax())].numpy()
    assert np.corrcoef(chosen.ravel(), shown.logits.ravel())[0, 1] > 0.99


def test_pictures_ask_for_nothing_that_learns(run: Path) -> None:
    """The same masks, whichever head the object score has."""
    click = Prompt(points=((55.0, 60.0),), labels=(1,))
    pixels = striped(120, 160, 40)
    tracker = read_memory_run(run / "run", side=SIDE, weights_dir=Path("weights")).runner
    shipped = load_runner(BUILTIN, checkpoint=CHECKPOINT, device="cpu", dtype="bfloat16", image_size=SIDE)
    ours, theirs = (each.decode([(each.encode([pixels])[0], click)])[0] for each in (tracker, shipped))
    assert (ours.logits == theirs.logits).all()
    assert (ours.iou == theirs.iou).all()


class _MaskFirst(np.random.Generator):
    """Chance that falls on what a track does: a mask, and memories of what was found."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))
        self._values = iter((0.0, 1.0))

    def random(self, *args: object, **kwargs: object) -> float:  # type: ignore[override]
        """0 for the mask first, then 1."""
        return next(self._values)
