"""The decisions of Meta's SAM2VideoPredictor, scenario by scenario: which memories, which calls, which state.

tests/golden/video_trace.json is what Meta's code did with a network that answers numbers of frames. Two scenarios
are left out on purpose: a stride between remembered frames, which no release uses and we do not offer, and an
option that fails in Meta's code.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import TrackError
from model.network.config import VARIANTS
from model.video.track import Track
from model.video.values import Direction, MaskPrompt, ObjectMask
from tests.model.video.fakes import FakeNetwork, click, frame

SCENARIOS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "golden" / "video_trace.json").read_text()
)["scenarios"]
NOT_OFFERED = ("memory_temporal_stride_for_eval", "clear_non_cond_mem_around_input")
REPLAYED = [each for each in SCENARIOS if not set(NOT_OFFERED) & set(each.get("options", {}))]


def test_what_is_left_out_is_two_scenarios() -> None:
    assert len(SCENARIOS) - len(REPLAYED) == len(NOT_OFFERED)


@pytest.mark.parametrize("scenario", REPLAYED, ids=lambda each: each["name"])
def test_decisions_are_metas(scenario: dict[str, Any]) -> None:
    video = VARIANTS[scenario["variant"]].video
    assert video is not None
    network = FakeNetwork(video)
    options = scenario.get("options", {})
    track = Track(
        network,
        num_frames=scenario["frames"],
        corrections="kept" if options.get("add_all_frames_to_correct_as_cond") == "true" else "plain",
        max_conditioning=options.get("max_cond_frames_in_attn"),
    )
    for step in scenario["steps"]:
        network.calls.clear()
        if step["op"] == "clear":
            # From here on Meta's predictor fails whatever it is asked; ours drops the object, in words.
            said = track.clear_prompts(step["frame"], step["object"])
            assert said is not None
            assert list(track.objects) == [each for each in step["objects"] if each != step["object"]]
            return
        replay(track, network, step)
        compare_states(track, step["state"])


def replay(track: Track, network: FakeNetwork, step: dict[str, Any]) -> None:
    if step["op"] == "propagate":
        for index in track.unsettled:
            track.settle(frame(index))
        for expected in step["yields"]:
            direction = Direction.BACKWARD if step.get("reverse") else Direction.FORWARD
            shown = track.step(frame(expected["frame"]), direction=direction)
            assert [each.object_id for each in shown] == expected["objects"]
            compare_calls(network, expected["calls"])
            network.calls.clear()
        return
    if step["op"] == "mask":
        prompt: Any = MaskPrompt(np.ones((8, 8), bool))
    else:
        prompt = click(*step["labels"], box="box" in step)
    replaces = step.get("clear_old_points", True)
    if step.get("error") == "ValueError":
        with pytest.raises(TrackError, match="box"):
            track.prompt(frame(step["frame"]), step["object"], prompt, replaces=replaces)
        return
    shown = track.prompt(frame(step["frame"]), step["object"], prompt, replaces=replaces)
    assert [each.object_id for each in shown] == step["objects"]
    assert highest(shown) == step["shown"]
    compare_calls(network, step["calls"])


def highest(shown: list[ObjectMask]) -> list[float]:
    return [float(each.logits.max()) for each in shown if each.logits is not None]


def compare_calls(network: FakeNetwork, expected: list[dict[str, Any]]) -> None:
    """The prompts' memories are made together, in the order of frames; all else is in Meta's order."""
    prompted = sorted(each["encode_memory"] for each in expected if "encode_memory" in each)
    made = [each for each in network.calls if "encode_memory" in each]
    assert sorted(each["encode_memory"] for each in made if each["binarized"]) == prompted
    asked = [each for each in network.calls if "encode_memory" not in each]
    calls = [each for each in expected if "encode_memory" not in each]
    assert sum("encodes_memory" in each for each in calls) == len(made) - len(prompted)
    for found, call in zip(asked, calls, strict=True):
        assert found["frame"] == call["frame"]
        if "mask" in found:
            assert call["decoder"] == {"points": [], "mask_input": [4, 4], "multimask": False}
            continue
        assert found["initial"] == call["initial"]
        for key in ("memory", "pointers"):
            assert found.get(key) == call.get(key)
        if "pointer_positions" in call:
            assert found["pointer_positions"] == call["pointer_positions"]
        decoder = call["decoder"]
        assert {key: found[key] for key in decoder} == decoder


def compare_states(track: Track, expected: dict[str, Any]) -> None:
    assert [str(each) for each in track.objects] == list(expected)
    for object_id, state in expected.items():
        found = track._objects[int(object_id)]
        names = {Direction.FORWARD: "forward", Direction.BACKWARD: "reverse"}
        masks = [f for f, prompt in found.prompts.items() if isinstance(prompt, MaskPrompt)]
        assert sorted(found.conditioning) == state["conditioning"]
        # We forget what is too far behind for any pointer.
        last = list(found.tracked)[-1] if found.tracked else 0
        assert sorted(found.others) == [each for each in state["other"] if abs(each - last) <= 15]
        for kind in (True, False):
            pending = sorted(f for f, each in found.pending.items() if each.is_conditioning == kind)
            assert pending == state["pending_conditioning" if kind else "pending_other"]
        assert sorted(masks) == state["mask_frames"]
        assert sorted(set(found.prompts) - set(masks)) == state["point_frames"]
        assert {str(f): names[each] for f, each in found.tracked.items()} == state["tracked"]
