"""Tracks and propagations of Client against the real service with a fake model."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from client_server import Served
from track_files import CLICKED, CLIP, FOLLOWED, MIDDLE, indexes, is_about

import sam2_client
from sam2_client import Client, Track, TrackPrompt
from sam2_client.following import Course
from sam2_client.masks import Mask
from sam2_client.spans import Direction, Span
from sam2_client.track_replies import Begun
from tests.fakes import RADII, disc_mask, picture
from tests.small_videos import HEIGHT, WIDTH


@pytest.fixture
def track(client: Client) -> Iterator[Track]:
    with client.track(CLIP) as track:
        yield track


def test_a_click_is_answered_and_followed(track: Track) -> None:
    assert (track.frames, track.width, track.height, track.model) == (6, WIDTH, HEIGHT, "fake")
    assert track.tracker == "mask_prompt"
    first = track.click(MIDDLE, object=5)
    assert (first.index, first.time, first.error, list(first.masks)) == (0, 0, None, [5])
    assert np.array_equal(first.masks[5].to_numpy(), CLICKED)
    followed = list(track.propagate())
    assert [(each.index, each.time) for each in followed] == [(n, n / 10) for n in range(6)]
    for frame in followed[1:]:
        mask = frame.masks[5]
        assert is_about(mask.to_numpy(), FOLLOWED)
        assert (mask.object, mask.visible, mask.score > 0) == (5, True, True)
        assert mask.to_dict()["object"] == 5
        assert np.array_equal(Mask.from_dict(mask.to_dict()).to_numpy(), mask.to_numpy())


def test_boxes_masks_and_several_clicks_are_prompts(track: Track) -> None:
    boxed = track.click(box=(10, 10, 30, 30), frame=1, object=1).masks[1]
    assert np.array_equal(boxed.to_numpy(), disc_mask(20, 20, RADII[1], height=HEIGHT, width=WIDTH))
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    drawn[8:40, 8:40] = True
    assert is_about(track.click(mask=drawn, frame=2, object=2).masks[2].to_numpy(), drawn)
    again = track.click(mask=boxed, frame=3, object=3).masks[3]
    assert is_about(again.to_numpy(), boxed.to_numpy())
    gone = track.click(mask=np.zeros_like(drawn), frame=4, object=2).masks[2]
    assert (gone.visible, gone.area, gone.score < 0) == (False, 0, True)
    two = track.click([(20, 20), (40, 20)], [1, 0], frame=5, object=4)
    assert list(two.masks) == [1, 2, 3, 4]
    assert track.prompts() == {1: [1], 2: [2, 4], 3: [3], 4: [5]}


def test_frames_and_objects_may_be_numpys(client: Client, track: Track) -> None:
    """They were refused as no whole numbers."""
    track.click(MIDDLE, frame=np.int64(3), object=np.int64(2))  # type: ignore[arg-type]
    start, end = np.int64(3), np.int32(4)
    assert indexes(track.propagate(start, end)) == [3, 4]  # type: ignore[arg-type]
    prompts = [TrackPrompt(points=MIDDLE, frame=np.int64(1))]  # type: ignore[arg-type]
    assert indexes(client.propagate(CLIP, prompts, start=np.int64(1), end=end)) == [1, 2, 3, 4]  # type: ignore[arg-type]
    track.clear(frame=np.int64(3), object=np.int64(2))  # type: ignore[arg-type]
    assert track.prompts() == {}


def test_clicks_add_to_those_before_or_replace_them(track: Track, served: Served) -> None:
    track.click([(20, 20)])
    track.click([(50, 20)])
    with pytest.raises(sam2_client.InvalidPrompt):
        track.click(box=(10, 10, 30, 30))
    replaced = track.click(box=(30, 10, 50, 30), clear=True).masks[1]
    assert np.array_equal(replaced.to_numpy(), disc_mask(40, 20, RADII[1], height=HEIGHT, width=WIDTH))


def test_objects_and_prompts_are_taken_back(track: Track) -> None:
    track.click(MIDDLE, object=1)
    track.click(MIDDLE, object=2, frame=1)
    track.click(MIDDLE, object=2, frame=3)
    track.remove(1)
    assert track.clear(frame=3, object=2) is None
    assert track.prompts() == {2: [1]}
    assert "Object 2 is dropped" in str(track.clear(frame=1, object=2))
    with pytest.raises(sam2_client.InvalidPrompt, match="no object to follow"):
        next(track.propagate())


@pytest.mark.parametrize(
    ("asked", "passed"),
    [
        ({}, [2, 3, 4, 5]),
        ({"start": 4}, [4, 5]),
        ({"end": 3}, [2, 3]),
        ({"start": 1, "end": 1}, [1]),
        ({"direction": "backward"}, [2, 1, 0]),
        ({"direction": "backward", "start": 3, "end": 2}, [3, 2]),
        ({"direction": "both"}, [2, 3, 4, 5, 1, 0]),
        ({"direction": "both", "start": 4}, [4, 5, 3, 2, 1, 0]),
        ({"direction": "both", "start": 0}, [0, 1, 2, 3, 4, 5]),
    ],
    ids=str,
)
def test_ranges_and_directions(
    track: Track, asked: dict[str, Any], passed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    track.click(MIDDLE, frame=2)
    assert indexes(track.propagate(**asked)) == passed
    assert capsys.readouterr().err == ""
    assert indexes(track.propagate(**asked, progress=True)) == passed
    assert f"{len(passed)}/{len(passed)}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"direction": "up"}, "direction is 'up'"),
        ({"start": -1}, "start is -1"),
        ({"end": True}, "end is True"),
        ({"end": 3, "direction": "both"}, "both ends"),
        ({"start": 3, "end": 2}, "lies before"),
        ({"non_overlapping": 1}, "non_overlapping is 1"),
    ],
)
def test_ranges_that_are_none(track: Track, asked: dict[str, Any], what: str) -> None:
    with pytest.raises((ValueError, TypeError), match=what):
        track.propagate(**asked)


def test_ranges_that_the_track_does_not_have_are_refused_by_the_server(track: Track) -> None:
    track.click(MIDDLE, frame=2)
    for asked in ({"start": 9}, {"end": 9}, {"end": 1}):
        with pytest.raises(sam2_client.InvalidPrompt):
            list(track.propagate(**asked))
    with pytest.raises(sam2_client.InvalidPrompt, match="frame 9"):
        track.click(MIDDLE, frame=9)


@pytest.mark.parametrize("stop", [0, 3, 4, 5])
def test_a_loop_that_is_left_goes_on_after_what_it_got(track: Track, stop: int) -> None:
    track.click(MIDDLE, frame=2)
    order = [2, 3, 4, 5, 1, 0]
    frames = track.propagate(direction="both")
    assert [next(frames).index for _ in range(stop + 1)] == order[: stop + 1]
    frames.close()
    assert indexes(track.propagate(direction="both")) == (order[stop + 1 :] or order)
    frames = track.propagate()
    next(frames)
    frames.close()
    track.click(MIDDLE, frame=1)
    assert indexes(track.propagate()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("way", "then"), [("forward", [4, 5, 1, 0]), ("backward", [2, 3, 4, 5, 0])])
def test_both_ways_pass_all_frames_also_where_only_one_way_was_left(
    track: Track, way: Direction, then: list[int]
) -> None:
    track.click(MIDDLE, frame=2)
    frames = track.propagate(direction=way)
    assert len([next(frames), next(frames)]) == 2
    frames.close()
    assert indexes(track.propagate(direction="both")) == then
    assert indexes(track.propagate(direction="both")) == [2, 3, 4, 5, 1, 0]


@pytest.mark.parametrize(
    ("done", "forward", "backward", "then"),
    [
        ([(2, 3)], 4, None, [[4, 5], [1, 0]]),
        ([(0, 3)], 4, None, [[4, 5]]),
        ([(1, 5)], None, 0, [[0]]),
        ([(1, 2)], None, 0, [[2, 3, 4, 5], [0]]),
        ([(0, 5)], None, None, [[2, 3, 4, 5], [1, 0]]),
    ],
)
def test_what_is_left_of_both_ways_of_a_track_that_was_found(
    done: list[tuple[int, int]], forward: int | None, backward: int | None, then: list[list[int]]
) -> None:
    """The server does not say which way was done, but which frames were."""
    prompted = {1: [2]}
    known = Begun("", 6, 0, 0, "", "", prompted=prompted, done=done, forward=forward, backward=backward)
    assert [list(leg) for leg in Course(Span(direction="both"), known).legs] == then


def test_options_reach_the_server(client: Client) -> None:
    with client.track(CLIP, track_id="own", corrections="meta") as track:
        assert track.track_id == "own"
        track.click(MIDDLE, object=1)
        near = [(MIDDLE[0][0] + 4, MIDDLE[0][1])]
        for apart in (False, True):
            shown = track.click(near, object=2, clear=True, non_overlapping=apart)
            for frame in (shown, *track.propagate(end=1, non_overlapping=apart)):
                one, two = (mask.to_numpy() for mask in frame.masks.values())
                assert (one & two).any() != apart
        for areas in ({"max_hole_area": -1}, {"max_sprinkle_area": -1}):
            for asked in (lambda a=areas: track.click(near, **a), lambda a=areas: list(track.propagate(**a))):
                with pytest.raises(sam2_client.ValidationFailed):
                    asked()
        with pytest.raises(sam2_client.TrackIdConflict):
            client.track(CLIP, track_id="own")
    with pytest.raises(sam2_client.ValidationFailed, match="corrections"):
        client.track(CLIP, corrections="lost")  # type: ignore[arg-type]


def test_a_track_is_found_by_its_id_and_deleted(client: Client) -> None:
    track = client.track(CLIP, track_id="found")
    track.click(MIDDLE, object=3)
    found = client.find_track("found")
    assert (found.frames, found.width, found.prompts()) == (6, WIDTH, {3: [0]})
    assert indexes(found.propagate(end=2)) == [0, 1, 2]
    assert found.picture(2).size == (WIDTH, HEIGHT)
    found.delete()
    found.delete()
    with pytest.raises(sam2_client.TrackNotFound):
        client.find_track("found")
    with pytest.raises(ValueError, match="lost in a URL"):
        client.find_track("..")


def test_with_deletes_and_the_first_error_is_the_one_told(client: Client, served: Served) -> None:
    with pytest.raises(ZeroDivisionError), client.track(CLIP, track_id="brief"):
        raise ZeroDivisionError
    with pytest.raises(sam2_client.TrackNotFound):
        client.find_track("brief")
    refusal = (500, {}, b'{"error": {"code": "internal_error", "message": "Broken."}}')
    with pytest.raises(sam2_client.Sam2Error, match="Broken"), client.track(CLIP):
        served.trouble.replies.append(refusal)
    track = client.track(CLIP)
    served.trouble.replies.append(refusal)
    with pytest.raises(ZeroDivisionError), track:
        raise ZeroDivisionError
    assert not served.trouble.replies


def test_everything_in_one_request_leaves_no_track(client: Client, served: Served) -> None:
    prompts = [
        TrackPrompt(points=MIDDLE, frame=1),
        TrackPrompt(box=(10, 10, 30, 30), frame=2, object=2),
    ]
    served.trouble.asked.clear()
    frames = list(client.propagate(CLIP, prompts, direction="both", non_overlapping=True))
    assert served.trouble.asked == ["POST /videos", "POST /propagate"]
    assert indexes(frames) == [1, 2, 3, 4, 5, 0]
    assert [list(frame.masks) for frame in frames] == [[1, 2]] * 6
    one, two = (mask.to_numpy() for mask in frames[3].masks.values())
    assert one.any()
    assert two.any()
    assert not (one & two).any()
    ids = [client.embed(picture(shade=shade)).image_id for shade in range(3)]
    assert indexes(client.propagate(prompts=prompts[:1], image_ids=ids, start=1, end=2)) == [1, 2]
    with pytest.raises(sam2_client.ValidationFailed, match="prompts"):
        next(client.propagate(CLIP))
    for areas in ({"max_hole_area": -1}, {"max_sprinkle_area": -1}):
        with pytest.raises(sam2_client.ValidationFailed, match="_area"):
            next(client.propagate(CLIP, prompts, **areas))
