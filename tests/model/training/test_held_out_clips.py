"""The measure of trackers: what it asks, what perfect and lazy ones reach, and the command."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from model.training.clips import Clip
from model.training.held_out_clips import Followed, Row, clips_of, follow, main, rows, table
from model.training.moving import ClipKind
from model.training.pack import Mask, Pack, PackError, Pixels
from model.types import Embedding, Prompt
from model.video.values import ABSENT, Frame, MaskPrompt, ObjectMask, TrackPrompt
from tests.model.training.packs import disc, photograph, write_pack

SIDE = 64


def clip() -> Clip:
    """A disc that moves, and is not there on the last frame but one."""
    masks = np.stack([disc(SIDE, SIDE, centre=(20 + 5 * at, 32), radius=12) for at in range(5)])
    masks[3] = False
    return Clip(np.zeros((5, SIDE, SIDE, 3), np.uint8), masks, ClipKind.VANISH)


class Told:
    """A tracker that is told what to answer on each frame; keeps the prompts."""

    def __init__(self, answers: Sequence[Mask]) -> None:
        self.answers, self.prompts = answers, dict[int, TrackPrompt]()
        self.tracking = self

    def begin(self, *, num_frames: int) -> "Told":
        assert num_frames == len(self.answers)
        return self

    def encode(self, images: Sequence[Pixels]) -> list[Embedding]:
        return [cast(Embedding, SimpleNamespace()) for _ in images]

    def prompt(self, frame: Frame, object_id: int, prompt: TrackPrompt) -> list[ObjectMask]:
        assert frame.index == 0
        self.prompts[object_id] = prompt
        return []

    def step(self, frame: Frame) -> list[ObjectMask]:
        mask = self.answers[frame.index]
        logits = np.where(mask, 9, -9).astype(np.float32) if mask.any() else np.full(mask.shape, ABSENT)
        score = 5.0 if mask.any() else -5.0
        return [ObjectMask(number, logits.astype(np.float32), score, 0.9) for number in self.prompts]


def test_the_truth_is_1_everywhere() -> None:
    asked = Told(clip().masks)
    by_click, by_mask = follow(asked, clip())
    assert by_click == Followed("click", "vanish", 1.0, 1.0, 1.0)
    assert by_mask == Followed("mask", "vanish", 1.0, 1.0, 1.0)
    click, drawn = asked.prompts[0], asked.prompts[1]
    assert isinstance(click, Prompt)
    assert click.points == ((20.0, 32.0),)
    assert isinstance(drawn, MaskPrompt)
    assert (drawn.mask == clip().masks[0]).all()


def test_who_stays_at_the_first_frame_falls_behind() -> None:
    still, _ = follow(Told([clip().masks[0]] * 5), clip())
    assert 0.1 < still.j < 0.6
    assert still.f < still.j
    assert still.presence == 0.75


def test_rows_are_means_by_kind_and_over_all() -> None:
    found = rows([Followed("click", "move", 0.5, 0.7, 1.0), Followed("click", "hide", 0.3, 0.1, 0.5)])
    assert found["click", "all"] == Row(2, pytest.approx(0.4), pytest.approx(0.4), 0.75)
    assert found["click", "move"].j_and_f == pytest.approx(0.6)
    both = found | {("mask", kind): row for (_, kind), row in found.items()}
    assert table(both).splitlines()[-1].startswith("| hide | 1 | 0.300 | 0.100 | 0.200 | 0.500 | 0.300 |")


def test_clips_are_of_photographs_held_out_and_of_no_others() -> None:
    pictures = tuple(photograph(f"{number:012}.jpg", "coco-cc") for number in range(20))
    pack = Pack(pictures, (), ())
    assert 0 < len(pack.held_out().photographs) < 20
    clips_of(pack, "held-out", frames=2, seed=0)
    with pytest.raises(PackError, match="large enough"):
        clips_of(Pack(pack.training().photographs, (), ()), "held-out", frames=2, seed=0)


@pytest.fixture
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_threads")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pack(tmp_path)
    few = ["--clips", "1", "--frames", "2", "--checkpoint", "untrained", "--side", "64", "--device", "cpu"]
    said = [str(tmp_path), *few, "--json", str(tmp_path / "figures.json")]
    assert main([*said, "--of", "training"]) == 0
    assert "| move | 1 |" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "figures.json").read_text())["rows"]) >= {"click, all", "mask, move"}
    assert main(said) == 1
    assert "large enough" in capsys.readouterr().err
