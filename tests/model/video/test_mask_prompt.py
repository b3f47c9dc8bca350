"""The floor: the previous mask as the next frame's prompt, on a decoder whose masks are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from model.errors import TrackError
from model.types import Embedding, Prediction, Prompt
from model.video.mask_prompt import MaskPromptTrack
from model.video.values import Direction, Frame, MaskPrompt

SIDE = 16


@dataclass
class Decoder:
    """Finds a square of 4 x 4 that moves by one sample a frame; `missing` frames have none."""

    missing: frozenset[int] = frozenset()
    asked: Sequence[Prompt] = ()

    def __call__(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        self.asked = [prompt for _, prompt in jobs]
        found = []
        for embedding, _ in jobs:
            index = cast(SimpleNamespace, embedding).index
            logits = np.full((1, SIDE, SIDE), -5, np.float32)
            logits[0, 4:8, index : index + 4] = 5
            iou = 0.1 if index in self.missing else 0.9
            found.append(Prediction(logits, np.array([iou], np.float32), 1.0))
        return found


def frame(index: int) -> Frame:
    return Frame(index, cast(Embedding, SimpleNamespace(index=index, height=32, width=64)))


CLICK = Prompt(points=((1.0, 1.0),), labels=(1,))


def test_each_frame_is_asked_with_the_mask_before_and_a_box_around_it() -> None:
    decoder = Decoder()
    track = MaskPromptTrack(decoder, num_frames=8, mask_size=(SIDE, SIDE))
    track.prompt(frame(2), 1, CLICK)
    for index, direction in ((3, Direction.FORWARD), (1, Direction.BACKWARD)):
        (shown,) = track.step(frame(index), direction=direction)
        (asked,) = decoder.asked
        assert asked.box == (8, 8, 24, 16)
        assert asked.mask_logits is not None
        assert (asked.mask_logits > 0).nonzero()[1].min() == 2
        assert shown.visible
        assert shown.logits is not None
        assert (shown.logits > 0).nonzero()[1].min() == index
    assert track.shown(7)[0].visible is False


def test_what_the_decoder_doubts_is_not_visible_and_is_looked_for_on() -> None:
    track = MaskPromptTrack(Decoder(frozenset({2})), num_frames=8, mask_size=(SIDE, SIDE))
    track.prompt(frame(1), 5, CLICK)
    seen = [track.step(frame(index))[0] for index in (1, 2, 3)]
    assert [each.visible for each in seen] == [True, False, True]
    assert seen[1].logits is not None
    assert seen[1].logits.max() < 0


def test_a_drawn_mask_stands_and_an_empty_one_says_that_it_is_not_there() -> None:
    track = MaskPromptTrack(Decoder(), num_frames=8, mask_size=(SIDE, SIDE))
    mask = np.zeros((32, 64), bool)
    assert not track.prompt(frame(0), 1, MaskPrompt(mask))[0].visible
    assert not track.step(frame(1))[0].visible
    mask[8:16, 16:32] = True
    (shown,) = track.prompt(frame(0), 1, MaskPrompt(mask))
    assert shown.visible
    assert shown.logits is not None
    assert (shown.logits > 0).sum() == 16
    assert track.step(frame(0))[0].logits is shown.logits
    assert track.step(frame(1))[0].visible


def test_a_mask_that_is_empty_is_not_visible_whoever_made_it() -> None:
    track = MaskPromptTrack(
        lambda jobs: [
            Prediction(np.full((1, SIDE, SIDE), -5, np.float32), np.array([0.9]), 1.0) for _ in jobs
        ],
        num_frames=8,
        mask_size=(SIDE, SIDE),
    )
    nothing_but_background = Prompt(points=((1.0, 1.0),), labels=(0,))
    speck = np.zeros((32 * SIDE, 64 * SIDE), bool)
    speck[9, 9] = True
    for prompt in (nothing_but_background, MaskPrompt(speck)):
        (shown,) = track.prompt(frame(0), 1, prompt)
        assert shown.logits is not None
        assert (shown.visible, (shown.logits > 0).any()) == (False, False)
        assert not track.step(frame(1))[0].visible


def test_memory_does_not_grow_with_the_video() -> None:
    track = MaskPromptTrack(Decoder(), num_frames=12, mask_size=(SIDE, SIDE))
    track.prompt(frame(0), 1, CLICK)
    sizes = []
    for index in range(12):
        track.step(frame(index))
        sizes.append(track.nbytes)
    assert len(set(sizes[2:])) == 1
    assert track.shown(4)[0].logits is None


def test_objects_and_prompts_are_taken_back() -> None:
    track = MaskPromptTrack(Decoder(), num_frames=8, mask_size=(SIDE, SIDE))
    with pytest.raises(TrackError, match="no object"):
        track.step(frame(0))
    with pytest.raises(TrackError, match="0 to 7"):
        track.prompt(frame(8), 1, CLICK)
    track.prompt(frame(3), 1, CLICK)
    track.prompt(frame(5), 2, CLICK)
    assert track.first_frame == 3
    assert list(track.objects) == [1, 2]
    assert track.remove_object(1) == (3,)
    said = track.clear_prompts(5, 2)
    assert said is not None
    assert "frame 5" in said
    assert track.objects == {}


def test_a_prompt_that_is_taken_back_leaves_nothing_unless_a_step_was_taken_from_it() -> None:
    decoder = Decoder()
    track = MaskPromptTrack(decoder, num_frames=8, mask_size=(SIDE, SIDE))
    track.prompt(frame(5), 1, CLICK)
    track.prompt(frame(1), 1, CLICK)
    track.prompt(frame(1), 1, CLICK)
    assert track.clear_prompts(1, 1) is None
    assert not track.shown(1)[0].visible
    assert not track.step(frame(2))[0].visible  # followed from nothing
    track.prompt(frame(1), 1, CLICK)
    (asked,) = decoder.asked
    assert asked.mask_logits is None  # built on nothing
    held = track.nbytes
    track.step(frame(2))
    tracked, both = track.shown(2)[0].logits, track.nbytes
    assert tracked is not None
    track.prompt(frame(2), 1, CLICK)
    track.prompt(frame(2), 1, MaskPrompt(np.ones((32, 64), bool)))
    assert track.nbytes == both + tracked.nbytes  # what the frame was before its correction is held too
    track.clear_prompts(2, 1)
    assert track.shown(2)[0].logits is tracked  # as before the correction
    assert track.nbytes == both
    track.clear_prompts(1, 1)
    assert track.shown(1)[0].visible  # an ordinary frame, as Meta's predictor has it
    track.step(frame(3))
    assert track.step(frame(4))[0].visible
    assert track.nbytes <= 2 * held
