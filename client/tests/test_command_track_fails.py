"""`sam2 track` that is used wrongly or fails, and what a cut leaves of its outputs."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from client_server import Served
from PIL import Image
from track_command_files import POINT, read, run, shown, written
from track_files import CLIP, frames_in

import sam2_client
from sam2_client import overlay_video
from sam2_client.sync_track import Track
from tests.small_videos import HEIGHT, WIDTH, clip, with_broken_packet

pytestmark = pytest.mark.usefixtures("clip_file")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([*POINT], "nothing to write"),
        (["-o", "masks"], "nothing to follow"),
        ([*POINT, "--frame", "3", "-o", "masks"], "--frame after the last prompt"),
        ([*POINT, "--object", "3", "-o", "masks"], "--object after the last prompt"),
        (["--object", "2", "--label", "a", "--object", "1", *POINT, "-o", "m"], "--label a: object 2 has no"),
        (["--box", "1,2,3,4", "--box", "1,2,3,4", "-o", "masks"], "--box is given twice"),
        ([*POINT, "--mask", "black.png", "-o", "masks"], "a mask is a prompt of its own"),
        (["clip.mp4", *POINT, "-o", "masks"], "clip.mp4 is a video: give its name alone"),
        ([*POINT, "-o", "masks", "--polygons"], "--polygons requires --coco"),
        ([*POINT, "--coco", "a.json", "--simplify", "1"], "--simplify requires --polygons"),
        ([*POINT, "-o", "masks", "--direction", "both", "--to", "3"], "--to requires"),
        ([*POINT, "--coco", "."], "is a folder"),
        ([*POINT, "--overlay", "out.webm"], "ends in .mp4"),
        ([*POINT, "--coco", "no/out.json"], "there is no folder no"),
        ([*POINT, "--overlay", "no/out.mp4"], "there is no folder no"),
        ([*POINT, "-o", "clip.mp4"], "is a file"),
        ([*POINT, "-o", "masks", "--frame", "-1"], "-1"),
        ([*POINT, "--overlay", "a.mp4", "--fps", "0"], "not a number above 0"),
        (["--point", "1", "-o", "masks"], "not X,Y"),
    ],
    ids=str,
)
def test_wrong_usage_ends_with_2(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str], served: Served
) -> None:
    Image.new("L", (WIDTH, HEIGHT)).save("black.png")
    served.trouble.asked.clear()
    with suppress(SystemExit):  # argparse ends with 2 too
        assert run(*arguments) == 2
    assert what in capsys.readouterr().err
    assert served.trouble.asked == [], "found out before anything is uploaded"


def test_what_is_tracked_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], served: Served
) -> None:
    frames_in(tmp_path / "001")
    os.link("clip.mp4", "clip.partial.mp4")
    Path("here").symlink_to(".")
    served.trouble.asked.clear()
    for frames, option, output in (
        ("clip.mp4", "--overlay", "clip.mp4"),
        ("clip.mp4", "--overlay", "here/clip.mp4"),
        ("clip.partial.mp4", "--overlay", "clip.mp4"),
        ("001", "--coco", "001/8.png"),
        ("001", "-o", "."),
        ("001/8.png", "-o", "here"),
    ):
        assert run(*POINT, option, output, frames=frames) == 2
        assert "name another" in capsys.readouterr().err
    assert served.trouble.asked == [], "found out before anything is uploaded"
    assert Path("clip.mp4").read_bytes() == CLIP
    assert run("--object", "2", "--point", "30,20", "-o", ".", frames="001") == 0
    assert written("002") == [f"{frame:06d}.png" for frame in range(4)]


def test_pictures_have_no_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames_in(tmp_path / "frames")
    assert run(*POINT, "-o", "masks", "--fps", "2", frames="frames") == 2
    assert "pictures have no time" in capsys.readouterr().err


def test_what_fails_is_said_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--point", "999,20", "-o", "masks") == 1
    assert "[invalid_prompt]" in capsys.readouterr().err
    assert run(*POINT, "-o", "masks", frames="none.mp4") == 1
    assert "none.mp4" in capsys.readouterr().err
    Path("empty").mkdir()
    assert run(*POINT, "-o", "masks", frames="empty") == 1
    assert "no pictures" in capsys.readouterr().err
    monkeypatch.setattr(overlay_video, "_CODEC", "imagined")
    assert run(*POINT, "--overlay", "out.mp4") == 1
    assert "built without imagined" in capsys.readouterr().err
    assert not Path("out.partial.mp4").exists()
    monkeypatch.setattr(overlay_video.importlib.util, "find_spec", lambda _: None)
    assert run(*POINT, "--overlay", "out.mp4") == 1
    assert "pip install av" in capsys.readouterr().err
    assert run(*POINT, "-o", "masks") == 0, "nothing else needs it"


@pytest.mark.parametrize("option", ["--coco", "--overlay"])
def test_what_cannot_be_written_is_said_before_frames_are_tracked(
    option: str, capsys: pytest.CaptureFixture[str], served: Served
) -> None:
    served.trouble.asked.clear()
    suffix = ".json" if option == "--coco" else ".mp4"
    output = "x" * (255 - len(suffix)) + suffix  # a little longer until it is complete
    assert run(*POINT, option, output) == 1
    said = capsys.readouterr().err
    assert output.removesuffix(suffix) in said
    assert not any("propagate" in asked for asked in served.trouble.asked)
    assert [each.name for each in Path().iterdir()] == ["clip.mp4"]


def test_a_frame_that_cannot_be_decoded_is_a_line_and_the_rest_is_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("clip.mp4").write_bytes(with_broken_packet(clip(group=20, b_frames=0, codec="mpeg4"), "mp4", 4))
    assert run(*POINT, "-o", "masks", "--coco", "out.json", "--overlay", "out.mp4") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("sam2: frame ") for line in lines)
    done = 20 - len(lines)
    assert len(written()) == len(read()["images"]) == len(shown()) == done


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """Ends the next propagation after so many frames."""

    def cut_after(count: int, how: BaseException) -> None:
        real = Track.propagate

        def propagate(self: Track, *arguments: Any, **options: Any) -> Any:
            monkeypatch.setattr(Track, "propagate", real)
            for number, frame in enumerate(real(self, *arguments, **options)):
                if number == count:
                    raise how
                yield frame

        monkeypatch.setattr(Track, "propagate", propagate)

    return cut_after


@pytest.mark.parametrize(
    ("how", "code", "direction"),
    [
        (KeyboardInterrupt(), 130, "forward"),
        (KeyboardInterrupt(), 130, "both"),
        (sam2_client.ConnectionFailed("gone"), 1, "both"),
        (OSError("full"), 1, "forward"),
    ],
    ids=str,
)
def test_a_cut_keeps_what_is_done_and_leaves_earlier_outputs(
    how: BaseException,
    code: int,
    direction: str,
    cut: Any,
    capsys: pytest.CaptureFixture[str],
    served: Served,
) -> None:
    everything = ["-o", "masks", "--coco", "out.json", "--overlay", "out.mp4", "--direction", direction]
    Path("out.json").write_text("earlier")
    Path("out.mp4").write_text("earlier")
    cut(3, how)
    assert run(*POINT, *everything) == code
    message = capsys.readouterr().err
    assert "stopped: 3 frames are done and kept in masks, out.partial.json, out.partial.mp4" in message
    assert Path("out.json").read_text() == Path("out.mp4").read_text() == "earlier"
    assert [each["frame_index"] for each in read("out.partial.json")["images"]] == [0, 1, 2]
    assert len(shown("out.partial.mp4")) == len(written()) == 3
    assert served.trouble.asked[-1].startswith("DELETE /tracks/")
    assert run(*POINT, *everything) == 0
    assert len(read()["images"]) == len(shown()) == len(written()) == 6
    assert not list(Path().glob("*.partial.*"))


def test_a_cut_before_the_first_frame_leaves_nothing(cut: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cut(0, KeyboardInterrupt())
    assert run(*POINT, "--coco", "out.json", "--overlay", "out.mp4") == 130
    assert capsys.readouterr().err == ""
    assert {each.name for each in Path().iterdir()} == {"clip.mp4"}
