"""`sam2 track`: masks, a COCO file and an overlay of a video or of pictures, and what a cut leaves of them."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from client_server import Served
from PIL import Image
from pycocotools.coco import COCO
from track_files import CLICKED, FOLLOWED, frames_in, is_about

import sam2_client
from sam2_client import Client, overlay_video
from sam2_client.command import main
from sam2_client.sync_track import Track
from sam2_client.track_arguments import prompts_of
from tests.fakes import RADII, disc_mask
from tests.small_videos import HEIGHT, WIDTH, clip, with_broken_packet

pytestmark = pytest.mark.usefixtures("commanded")
POINT = ["--point", f"{WIDTH / 2},{HEIGHT / 2}"]


@pytest.fixture(autouse=True)
def _clip(commanded: None) -> None:
    Path("clip.mp4").write_bytes(clip(frames=6))


def run(*arguments: str, frames: str = "clip.mp4") -> int:
    return main(["track", frames, *arguments])


def mask(frame: int, *, folder: str = "masks", object_id: int = 1) -> np.ndarray:
    return np.asarray(Image.open(f"{folder}/{object_id:03d}/{frame:06d}.png")) > 0


def written(folder: str = "masks") -> list[str]:
    return sorted(each.relative_to(folder).as_posix() for each in Path(folder).rglob("*.*"))


def read(file: str = "out.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(file).read_text())
    return content


def shown(file: str = "out.mp4") -> list[tuple[float, np.ndarray]]:
    """The time of each frame of a video, and its pixels."""
    with av.open(file) as opened:
        return [
            (float(frame.time or 0), frame.to_ndarray(format="rgb24")) for frame in opened.decode(video=0)
        ]


def test_masks_coco_and_an_overlay(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*POINT, "-o", "masks", "--coco", "out.json", "--overlay", "out.mp4") == 0
    said = capsys.readouterr()
    assert said.out == "masks: 6 masks\nout.json: 6 images, 6 annotations, 1 tracks\nout.mp4: 6 frames\n"
    assert said.err == ""
    assert written() == [f"001/{frame:06d}.png" for frame in range(6)]
    assert np.array_equal(mask(0), CLICKED)
    assert is_about(mask(5), FOLLOWED)
    data = read()
    assert data["videos"] == [
        {"id": 1, "name": "clip.mp4", "width": WIDTH, "height": HEIGHT, "length": 6, "fps": pytest.approx(10)}
    ]
    assert [(each["file_name"], each["frame_index"], each["video_id"]) for each in data["images"]] == [
        (f"clip/{frame:06d}.jpg", frame, 1) for frame in range(6)
    ]
    assert [each["time_s"] for each in data["images"]] == pytest.approx([frame / 10 for frame in range(6)])
    assert data["tracks"] == [{"id": 1, "category_id": 1, "video_id": 1}]
    assert data["categories"][0]["name"] == "object"
    loaded = COCO("out.json")
    for frame, (image_id, image) in enumerate(loaded.imgs.items()):
        (annotation,) = loaded.imgToAnns[image_id]
        assert (image["frame_index"], annotation["track_id"], annotation["video_id"]) == (frame, 1, 1)
        assert np.array_equal(loaded.annToMask(annotation) > 0, mask(frame))
        assert annotation["area"] == mask(frame).sum()
        assert 0 < annotation["stability"] < 1
        assert annotation["object_score"] > 0
    frames = shown()
    assert [time for time, _ in frames] == pytest.approx([each / 10 for each in range(6)], abs=1e-3)
    with Client(os.environ["SAM2_URL"]) as client:
        plain = np.asarray(client.upload_video("clip.mp4").frame(5), int)
    coloured = np.abs(frames[5][1].astype(int) - plain).max(axis=2) > 40
    assert is_about(coloured, mask(5))
    assert {each.name for each in Path().iterdir()} == {"clip.mp4", "masks", "out.json", "out.mp4"}


def test_several_objects_with_prompts_on_several_frames() -> None:
    Image.fromarray(np.pad(np.full((24, 32), 200, np.uint8), ((12, 12), (16, 16)))).save("drawn.png")
    prompts = ["--label", "cap", "--point", "20,20", "--not", "60,40"]
    prompts += [
        "--object",
        "2",
        "--frame",
        "1",
        "--box",
        "40,10,60,30",
        "--object",
        "3",
        "--mask",
        "drawn.png",
    ]
    assert run(*prompts, "--label", "drawn", "-o", "masks", "--coco", "out.json") == 0
    assert written() == [f"{each:03d}/{frame:06d}.png" for each in (1, 2, 3) for frame in range(6)]
    assert is_about(mask(0), disc_mask(20, 20, RADII[1], height=HEIGHT, width=WIDTH))
    assert not mask(0, object_id=2).any()
    assert is_about(mask(1, object_id=2), disc_mask(50, 20, RADII[1], height=HEIGHT, width=WIDTH))
    assert is_about(mask(1, object_id=3), np.asarray(Image.open("drawn.png")) > 0)
    data = read()
    names = {each["id"]: each["name"] for each in data["categories"]}
    assert {each["id"]: names[each["category_id"]] for each in data["tracks"]} == {
        1: "cap",
        2: "object",
        3: "drawn",
    }
    by_frame = [[a["track_id"] for a in data["annotations"] if a["image_id"] == n] for n in (1, 2)]
    assert by_frame == [[1], [1, 2, 3]]


def test_what_the_order_of_options_means(served: Served) -> None:
    asked = prompts_of(
        [
            ("--point", [1, 2]),
            ("--frame", 4),
            ("--not", [3, 4]),
            ("--object", 7),
            ("--box", [1, 2, 3, 4]),
            ("--object", 1),
            ("--point", [5, 6]),
        ]
    )
    assert [(each.object, each.frame, each.points, each.labels, each.box) for each in asked.prompts] == [
        (1, 0, [[1, 2]], [1], None),
        (1, 4, [[3, 4], [5, 6]], [0, 1], None),
        (7, 4, None, None, [1, 2, 3, 4]),
    ]


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ([], [2, 3, 4, 5]),
        (["--direction", "backward"], [0, 1, 2]),
        (["--direction", "both"], [0, 1, 2, 3, 4, 5]),
        (["--from", "3"], [3, 4, 5]),
        (["--to", "4"], [2, 3, 4]),
        (["--direction", "backward", "--from", "4", "--to", "1"], [1, 2, 3, 4]),
    ],
    ids=str,
)
def test_ranges_and_directions(options: list[str], frames: list[int]) -> None:
    prompt = ["--frame", "2", *POINT]
    assert run(*prompt, *options, "-o", "masks", "--coco", "out.json", "--overlay", "out.mp4") == 0
    assert written() == [f"001/{frame:06d}.png" for frame in frames]
    data = read()
    assert [each["frame_index"] for each in data["images"]] == frames
    count = len(data["annotations"])
    assert count > 1
    assert [each["id"] for each in data["annotations"]] == list(range(1, count + 1))
    pixels = shown()
    assert [time for time, _ in pixels] == pytest.approx([each / 10 for each in range(len(frames))], abs=1e-3)
    assert [round((float(each[-8:, -8:].mean()) - 20) / 10) for _, each in pixels] == frames


def test_masks_may_be_polygons_and_take_their_options() -> None:
    near = [*POINT, "--object", "2", "--point", f"{WIDTH / 2 + 4},{HEIGHT / 2}"]
    assert run(*near, "--coco", "out.json", "--polygons", "--simplify", "1", "--to", "0") == 0
    data = read()
    assert isinstance(data["annotations"][0]["segmentation"], list)
    assert run(*near, "--coco", "exact.json", "--polygons", "--to", "0") == 0
    points = [len(read(each)["annotations"][0]["segmentation"][0]) for each in ("out.json", "exact.json")]
    assert points[0] < points[1]
    assert (
        run(*near, "-o", "masks", "--to", "0")
        == run(*near, "-o", "apart", "--to", "0", "--non-overlapping")
        == 0
    )
    overlaps = [
        (mask(0, folder=folder) & mask(0, folder=folder, object_id=2)).any() for folder in ("masks", "apart")
    ]
    assert overlaps == [True, False]


@pytest.mark.parametrize("option", ["--max-hole-area", "--max-sprinkle-area"])
def test_clean_up_reaches_the_server(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*POINT, "-o", "masks", option, "70000") == 1
    assert option[2:].replace("-", "_") in capsys.readouterr().err


def test_a_rate_for_videos_and_for_pictures(tmp_path: Path) -> None:
    assert run(*POINT, "--fps", "5", "--coco", "out.json", "--overlay", "out.mp4") == 0
    assert (len(read()["images"]), read()["videos"][0]["fps"]) == (3, 5)
    assert [time for time, _ in shown()] == pytest.approx([0, 0.2, 0.4], abs=1e-3)
    frames_in(tmp_path / "frames")
    assert run("--point", "30,20", "--fps", "2", "--overlay", "slow.mp4", frames="frames") == 0
    assert [time for time, _ in shown("slow.mp4")] == pytest.approx([0, 0.5, 1, 1.5], abs=1e-3)


@pytest.mark.parametrize(
    "named", [["frames"], ["frames/*.png"], [f"frames/{n}.png" for n in (10, 11, 8, 9)]], ids=str
)
def test_pictures_are_frames(tmp_path: Path, named: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    frames_in(tmp_path / "frames")
    options = ["--point", "30,20", "-o", "masks", "--coco", "out.json", "--overlay", "out.mp4"]
    assert main(["track", *named, *options]) == 0
    assert ("left out" in capsys.readouterr().err) == (named == ["frames"])
    data = read()
    assert [each["file_name"] for each in data["images"]] == [
        f"frames/{number}.png" for number in range(8, 12)
    ]
    assert (data["videos"][0]["name"], data["videos"][0]["length"]) == ("frames", 4)
    assert len(written()) == len(shown()) == 4


def test_a_picture_of_odd_size_is_shown_too(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    for number in range(2):
        Image.new("RGB", (61, 41), (10 * number, 0, 0)).save(f"odd/{number}.png")
    assert run("--point", "30,20", "--overlay", "out.mp4", frames="odd") == 0
    assert shown()[0][1].shape == (42, 62, 3)


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


def test_masks_that_exist_are_replaced_and_others_stay() -> None:
    Path("masks/001").mkdir(parents=True)
    Path("masks/001/000000.png").write_text("old")
    Path("masks/001/000009.png").write_text("other")
    assert run(*POINT, "-o", "masks", "--to", "1") == 0
    assert mask(0).any()
    assert Path("masks/001/000009.png").read_text() == "other"


def test_a_bar_is_shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run(*POINT, "-o", "masks") == 0
    assert "6/6" in capsys.readouterr().err
