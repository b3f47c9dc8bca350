"""The frames of tracks of Client: videos and their options, and pictures, against the real service."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from track_files import CLICKED, CLIP, MIDDLE, frames_in, indexes

import sam2_client
from sam2_client import Client
from sam2_client.tracked import COLORS
from tests.small_videos import HEIGHT, WIDTH, clip, number_of, with_broken_packet


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({}, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        ({"fps": 5}, [0, 0.2, 0.4]),
        ({"start_s": 0.25}, [0.3, 0.4, 0.5]),
        ({"end_s": 0.2}, [0, 0.1]),
        ({"max_frames": 2}, [0, 0.1]),
    ],
    ids=str,
)
def test_options_of_a_video(client: Client, options: dict[str, Any], times: list[float]) -> None:
    video = client.upload_video(CLIP, **options)
    assert list(video.times) == pytest.approx(times)
    assert (video.frames, video.width, video.height, video.fps) == (
        len(times),
        WIDTH,
        HEIGHT,
        options.get("fps", pytest.approx(10)),
    )
    assert number_of(np.asarray(video.frame(1))) == round(10 * times[1])
    found = client.video(video.video_id)
    assert (found.video_id, found.times) == (video.video_id, video.times)
    with client.track(video) as track:
        track.click(MIDDLE)
        assert [frame.time for frame in track.propagate()] == pytest.approx(times)
    video.delete()
    with pytest.raises(sam2_client.VideoNotFound):
        client.video(video.video_id)


def test_names_of_videos(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(CLIP)
    assert client.upload_video(file, "named").video_id == "named"
    with pytest.raises(sam2_client.VideoIdConflict):
        client.upload_video(file, "named", fps=5)
    assert client.upload_video(file, "named", fps=5, replace=True).frames == 3
    with client.track(str(file)) as track:
        assert track.frames == 6
    client.video("named").delete()
    with pytest.raises(sam2_client.InvalidVideo):
        client.upload_video(b"<html>")
    for other in (np.zeros((6, 48, 64, 3), np.uint8), bytearray(CLIP)):
        with pytest.raises(TypeError, match=r"is not a video: pass a path, or the bytes of a file$"):
            client.upload_video(other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fps is nan"):
        client.upload_video(file, fps=float("nan"))
    with pytest.raises(sam2_client.FrameNotFound):
        client.upload_video(CLIP).frame(6)


def test_pictures_are_frames(client: Client, tmp_path: Path) -> None:
    folder = frames_in(tmp_path / "frames")
    images = [client.embed(folder / f"{number}.png") for number in range(8, 12)]
    given: list[dict[str, Any]] = [
        {"frames": folder},
        {"frames": [str(folder / f"{number}.png") for number in range(8, 12)]},
        {"frames": [images[0], (folder / "9.png").read_bytes(), images[2], folder / "11.png"]},
        {"image_ids": [image.image_id for image in images]},
    ]
    for each in given:
        with client.track(**each) as track:
            track.click([(30, 20)])
            assert indexes(track.propagate()) == [0, 1, 2, 3]
            if "image_ids" in each:
                with pytest.raises(ValueError, match="does not send back"):
                    track.picture(0)
            else:
                shades = [int(np.asarray(track.picture(number)).mean()) for number in range(4)]
                assert shades == [0, 10, 20, 30], "2.png is before 10.png"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "either frames or image_ids"),
        ({"frames": "clip.mp4", "image_ids": ["a"]}, "either frames or image_ids"),
        ({"frames": []}, "at least one frame"),
        ({"image_ids": "abc"}, "a list of ids"),
        ({"frames": 5}, "neither a video nor"),
        ({"frames": np.zeros((1, 1, 3), np.uint8)}, "this array is one picture"),
        ({"frames": ""}, "the name is empty"),
        ({"frames": ["no-such.png"]}, "no-such.png"),
        ({"frames": "no-such.mp4"}, "no-such.mp4"),
        ({"frames": [b"<html>"]}, "frame 0: "),
        ({"frames": ["README.txt"]}, "frame 0 .*README.txt"),
        ({"frames": "."}, "has no pictures"),
    ],
    ids=str,
)
def test_what_are_no_frames(
    client: Client, given: dict[str, Any], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.txt").write_text("<html>")
    with pytest.raises((ValueError, TypeError, OSError, sam2_client.InvalidImage), match=what):
        client.track(**given)


def test_uploads_have_a_bar(client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = frames_in(tmp_path / "frames")
    for progress in (False, True):
        with client.track(folder, progress=progress):
            assert ("4/4" in capsys.readouterr().err) == progress


def test_an_image_is_not_a_list_of_frames(client: Client, truck: Path) -> None:
    with pytest.raises(TypeError, match="Image is neither"):
        client.track(client.embed(truck))  # type: ignore[arg-type]


def test_pictures_of_frames_with_objects_in_colour(client: Client) -> None:
    track = client.track(CLIP)
    shown = track.click(MIDDLE)
    plain = track.picture(0)
    assert plain.size == (WIDTH, HEIGHT)
    changed = (np.asarray(shown.overlay(plain)) != np.asarray(plain)).any(axis=2)
    assert np.array_equal(changed, CLICKED)
    with pytest.raises(ValueError, match="frames 0 to 5"):
        track.picture(6)


def test_an_object_keeps_its_colour_when_another_is_removed(client: Client) -> None:
    with client.track(CLIP) as track:
        track.click(MIDDLE, object=1)
        both = track.click(MIDDLE, object=2)
        track.remove(1)
        alone = track.click(MIDDLE, object=2, clear=True)
        plain = track.picture(0)
    assert (list(both.masks), list(alone.masks)) == ([1, 2], [2])
    expected = alone.masks[2].overlay(plain, color=COLORS[1], opacity=0.55)
    assert np.array_equal(np.asarray(alone.overlay(plain)), np.asarray(expected))


def test_a_frame_that_cannot_be_decoded_is_an_error_of_that_frame(client: Client) -> None:
    broken = with_broken_packet(clip(group=20, b_frames=0, codec="mpeg4"), "mp4", 4)
    with client.track(broken) as track:
        track.click(MIDDLE)
        frames = list(track.propagate())
    assert indexes(frames) == list(range(20))
    failed = [frame for frame in frames if frame.error is not None]
    assert [type(frame.error) for frame in failed] == [sam2_client.InvalidFrame] * len(failed)
    assert failed
    assert all(not frame.masks for frame in failed)
    assert frames[-1].masks
