"""What a track does with prompts, corrections and objects that lose theirs, and how much it holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.errors import TrackError
from model.video.apart import apart
from model.video.track import Track
from model.video.values import ABSENT, Direction, MaskPrompt
from tests.model.video.fakes import FakeNetwork, click, frame


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


def tracked(network: FakeNetwork, *, to: int, num_frames: int = 100, corrections: str = "kept") -> Track:
    """Object 1, clicked on frame 0 and followed."""
    track = Track(network, num_frames=num_frames, corrections=corrections)  # type: ignore[arg-type]
    track.prompt(frame(0), 1, click(1))
    for index in range(to + 1):
        track.step(frame(index))
    network.calls.clear()
    return track


def test_a_correction_is_kept_when_the_track_passes_it_again(network: FakeNetwork) -> None:
    track = tracked(network, to=4)
    track.prompt(frame(3), 1, click(1, 0))
    for index in (3, 4):
        track.step(frame(index))
    asked = [each["frame"] for each in network.calls if "points" in each]
    assert asked == [3, 4]  # the correction itself, then frame 4: frame 3 is not computed anew
    assert network.calls[-2]["memory"] == [[0, 6], [3, 6], [1, 2], [2, 1]]


def test_metas_plain_way_computes_a_corrected_frame_anew(network: FakeNetwork) -> None:
    track = tracked(network, to=4, corrections="plain")
    track.prompt(frame(3), 1, click(1, 0))
    for index in (3, 4):
        track.step(frame(index))
    assert [each["frame"] for each in network.calls if "points" in each] == [3, 3, 4]


def test_a_correction_of_the_first_frame_is_kept_unless_meta_is_asked_for(network: FakeNetwork) -> None:
    """Meta's plain predictor throws the second click on the prompted frame away, once it has been tracked."""
    for corrections in ("kept", "plain"):
        track = tracked(network, to=1, corrections=corrections)
        before = track._objects[1].conditioning[0]
        track.prompt(frame(0), 1, click(0))
        assert network.calls[-1]["memory"] == [[0, 6]]  # it attends to the frame's own memory
        track.settle(frame(0))
        assert (track._objects[1].conditioning[0] is before) == (corrections == "plain")


def test_new_clicks_build_on_the_mask_that_is_shown_also_when_they_replace_the_old(
    network: FakeNetwork,
) -> None:
    track = Track(network, num_frames=3)
    track.prompt(frame(0), 1, click(1))
    track.prompt(frame(0), 1, click(0), replaces=True)
    assert network.calls[-1]["points"] == [0]
    assert network.calls[-1]["mask_input"] == [4, 4]
    track.prompt(frame(0), 1, click(1))
    assert network.calls[-1]["points"] == [0, 1]
    track.prompt(frame(0), 1, click(1), replaces=True, anew=True)
    assert network.calls[-1]["mask_input"] is None


def test_clicks_and_a_mask_replace_each_other(network: FakeNetwork) -> None:
    track = Track(network, num_frames=3)
    track.prompt(frame(0), 1, click(1))
    track.prompt(frame(0), 1, MaskPrompt(np.ones((2, 2), bool)))
    assert isinstance(track.objects[1][0], MaskPrompt)
    track.prompt(frame(0), 1, click(0))
    assert network.calls[-1]["points"] == [0]


def test_objects_of_a_frame_are_one_batch(network: FakeNetwork) -> None:
    track = Track(network, num_frames=9)
    for object_id, index in ((7, 0), (3, 4), (5, 0)):
        track.prompt(frame(index), object_id, click(1))
    for index in track.unsettled:
        track.settle(frame(index))
    network.batches.clear()
    shown = track.step(frame(1))
    assert network.batches == [3]
    assert [each.object_id for each in shown] == [7, 3, 5]
    track.step(frame(4))
    assert network.batches == [3, 2]  # frame 4 is object 3's own


def test_an_object_before_its_only_prompt_is_sought_without_pointers(network: FakeNetwork) -> None:
    track = Track(network, num_frames=9)
    track.prompt(frame(4), 1, click(1))
    track.settle(frame(4))
    track.step(frame(1))
    assert network.calls[-2]["memory"] == [[4, 6]]
    assert network.calls[-2]["pointers"] == []


def test_an_object_that_has_no_output_on_a_frame_is_absent_there(network: FakeNetwork) -> None:
    track = Track(network, num_frames=9)
    track.prompt(frame(4), 1, click(1))
    (other, shown) = track.prompt(frame(0), 2, click(1))
    assert other.logits is not None
    assert np.unique(other.logits).tolist() == [ABSENT]
    assert (other.visible, shown.visible) == (False, True)


def test_an_object_without_prompts_is_dropped_in_words_and_the_others_go_on(network: FakeNetwork) -> None:
    track = tracked(network, to=2)
    track.prompt(frame(2), 2, click(1))
    track.settle(frame(2))
    said = track.clear_prompts(2, 2)
    assert said == "Object 2 is dropped: without its prompt on frame 2 it has none to be tracked from."
    assert [each.object_id for each in track.step(frame(3))] == [1]
    assert track.clear_prompts(2, 2) is None  # asked for twice
    shown = track.prompt(frame(1), 2, click(1))  # on a frame where it had been tracked: a new object
    assert [each.object_id for each in shown] == [1, 2]


def test_taking_a_prompt_back_leaves_an_ordinary_frame(network: FakeNetwork) -> None:
    track = tracked(network, to=4)
    track.prompt(frame(3), 1, click(0))
    track.settle(frame(3))
    assert track.clear_prompts(3, 1) is None
    assert track.objects == {1: {0: track.objects[1][0]}}
    track.step(frame(4))
    assert network.calls[-2]["memory"] == [[0, 6], [1, 2], [2, 1], [3, 0]]


def test_a_click_where_every_settled_prompt_was_taken_back_is_a_first_one(network: FakeNetwork) -> None:
    """A bare assertion in Meta's code."""
    track = tracked(network, to=2, corrections="plain")
    track.prompt(frame(5), 1, click(1))
    track.clear_prompts(0, 1)
    track.prompt(frame(2), 1, click(1))
    assert network.calls[-1]["initial"]
    assert track.unsettled == (5, 2)


def test_a_prompt_that_fails_leaves_no_trace(network: FakeNetwork) -> None:
    track = tracked(network, to=1)
    network.fails = True
    for object_id in (1, 2):
        with pytest.raises(RuntimeError, match="device"):
            track.prompt(frame(1), object_id, click(1))
    assert {each: list(prompts) for each, prompts in track.objects.items()} == {1: [0]}
    assert track.unsettled == ()


def test_a_step_that_fails_can_be_asked_for_again(network: FakeNetwork) -> None:
    track = tracked(network, to=1)
    network.fails = True
    with pytest.raises(RuntimeError, match="device"):
        track.step(frame(2))
    network.fails = False
    assert track.passed(1) == {0: Direction.FORWARD, 1: Direction.FORWARD}
    track.step(frame(2))
    assert 2 in track.passed(1)


def test_removed_objects_are_gone_and_unknown_ones_are_no_error(network: FakeNetwork) -> None:
    track = tracked(network, to=1)
    assert track.remove_object(1) == (0,)
    assert track.remove_object(1) == ()
    with pytest.raises(TrackError, match="no object to follow"):
        track.step(frame(2))
    with pytest.raises(TrackError, match="no object 1"):
        track.passed(1)


@pytest.mark.parametrize("index", [-1, 100])
def test_a_frame_outside_of_the_video_is_refused(network: FakeNetwork, index: int) -> None:
    track = tracked(network, to=1)
    for ask in (track.step, track.settle, lambda each: track.prompt(each, 1, click(1))):
        with pytest.raises(TrackError, match=f"Frame {index} is not in the video, whose frames are 0 to 99"):
            ask(frame(index))


def test_prompts_of_other_frames_must_be_settled_first(network: FakeNetwork) -> None:
    track = Track(network, num_frames=9)
    track.prompt(frame(4), 1, click(1))
    with pytest.raises(TrackError, match="Frames 4 have new prompts"):
        track.step(frame(0))


def test_a_prompt_must_say_something(network: FakeNetwork) -> None:
    for prompt in (click(), replace(click(1), mask_logits=np.zeros((4, 4), np.float32))):
        with pytest.raises(TrackError, match="needs a click or a box; a mask is a prompt of its own"):
            Track(network, num_frames=9).prompt(frame(0), 1, prompt)


@pytest.mark.parametrize(("num_frames", "most"), [(0, None), (5, 1)])
def test_a_track_that_cannot_be_is_refused(network: FakeNetwork, num_frames: int, most: int | None) -> None:
    with pytest.raises(TrackError, match="or more"):
        Track(network, num_frames=num_frames, max_conditioning=most)


def test_a_video_of_one_frame_can_be_corrected(network: FakeNetwork) -> None:
    """Distances are divided by the frames of a short video but one: by nothing here."""
    track = tracked(network, to=0, num_frames=1)
    track.prompt(frame(0), 1, click(0))
    assert network.calls[-1]["pointer_positions"] == [0.0]


@pytest.mark.parametrize("direction", Direction)
def test_what_is_held_stops_growing(network: FakeNetwork, direction: Direction) -> None:
    track = Track(network, num_frames=100)
    order = range(60) if direction == Direction.FORWARD else range(60, 0, -1)
    track.prompt(frame(order[0]), 1, click(1))
    sizes = []
    for index in order:
        track.step(frame(index), direction=direction)
        sizes.append(track.nbytes)
    assert len(set(sizes[16:])) == 1
    found = track._objects[1]
    memories = [f for f, each in found.others.items() if each.memory is not None]
    assert len(memories) == 7
    assert len(found.others) == 16
    assert memories[-1] == order[-1]


def test_turning_round_holds_twice_as_much_at_most(network: FakeNetwork) -> None:
    track = tracked(network, to=50)
    for index in range(30, 60):
        track.step(frame(index), direction=Direction.BACKWARD if index % 2 else Direction.FORWARD)
        held = track._objects[1].others.values()
        assert sum(each.memory is not None for each in held) <= 13
        assert len(held) <= 31


def test_a_frame_too_far_behind_is_said_to_be_no_longer_held(network: FakeNetwork) -> None:
    track = tracked(network, to=50)
    (shown,) = track.shown(20)
    assert shown.logits is None
    (shown,) = track.shown(50)
    assert shown.logits is not None
    (shown,) = track.prompt(frame(20), 1, click(1))  # sees the first frame, and has no mask to build on
    assert network.calls[-1]["memory"] == [[0, 6]]
    assert network.calls[-1]["mask_input"] is None


def test_masks_that_do_not_overlap_go_to_the_highest_logit() -> None:
    low, high, nowhere = np.full((4, 4), 1.0), np.full((4, 4), -1.0), np.full((4, 4), -2.0)
    high[:, 2:] = 3.0
    first, second, third = apart(
        [each.astype(np.float32) for each in (low, high, nowhere)], height=8, width=8
    )
    assert not (first.to_array() & second.to_array()).any()
    assert first.area + second.area == 64
    assert second.to_array()[:, -1].all()
    assert third.area == 0
    assert [each.area for each in apart([low.astype(np.float32)] * 2, height=8, width=8)] == [64, 0]


def test_holes_are_filled_where_that_is_asked_for(network: FakeNetwork) -> None:
    network.logits = torch.ones(4, 4)
    network.logits[1, 1] = -3
    for most, hole in ((0, -3.0), (8, pytest.approx(0.1))):
        track = Track(network, num_frames=3, max_hole_area=most)
        (prompted,) = track.prompt(frame(0), 1, click(1))
        track.settle(frame(0))
        (followed,) = track.step(frame(1))
        for each in (prompted, followed):
            assert each.logits is not None
            assert float(each.logits[1, 1]) == hole
        # Meta's order: a prompted frame is remembered as it is shown, a tracked one as the decoder left it.
        prompt_seen, track_seen = network.remembered[-2:]
        assert float(prompt_seen[1, 1]) == hole
        assert float(track_seen[1, 1]) == -3
