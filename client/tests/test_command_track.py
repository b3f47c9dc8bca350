"""`sam2 track`: masks, a COCO file and an overlay of a video or of pictures."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from client_server import Served
from PIL import Image
from pycocotools.coco import COCO
from track_command_files import POINT, mask, read, run, shown, written
from track_files import CLICKED, FOLLOWED, frames_in, is_about

from sam2_client import Client
from sam2_client.command import main
from sam2_client.overlay_video import OverlayVideo
from sam2_client.track_arguments import prompts_of
from tests.fakes import RADII, disc_mask
from tests.small_videos import HEIGHT, WIDTH, clip

pytestmark = pytest.mark.usefixtures("clip_file")


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


def test_a_mask_is_what_is_neither_black_nor_transparent() -> None:
    drawn = np.zeros((4, 6), bool)
    drawn[1:3, 2:5] = True
    on_nothing = Image.fromarray(np.dstack([np.full((4, 6, 3), 255, np.uint8), drawn * np.uint8(255)]))
    dark = Image.fromarray(drawn.astype(np.uint8)).convert("P")
    dark.putpalette([0, 0, 0, 0, 0, 1])
    pictures = {
        "white": Image.fromarray(drawn * np.uint8(255)),
        "on_nothing": on_nothing,  # as GIMP and other editors save it
        "dark": dark,
        "one_bit": Image.fromarray(drawn),
        "number": Image.fromarray(drawn.astype(np.uint16) * np.uint16(7)),
        "share": Image.fromarray(drawn * np.float32(0.5)),
    }
    for name, picture in pictures.items():
        file = Path(f"{name}.tiff" if name == "share" else f"{name}.png")
        picture.save(file)
        (prompt,) = prompts_of([("--mask", file)]).prompts
        assert np.array_equal(prompt.mask, drawn), name


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


def test_an_overlay_says_how_long_it_is_where_the_last_frame_comes_late() -> None:
    """Players show nothing behind the end that a file gives."""
    times_ms = [0, 100, 200, 300, 400, 60_000]
    Path("late.webm").write_bytes(clip("webm", "libvpx-vp9", frames=6, times_ms=times_ms))
    assert run(*POINT, "--overlay", "out.mp4", frames="late.webm") == 0
    with av.open("out.mp4") as opened:
        (stream,) = opened.streams.video
        assert (opened.duration or 0) / av.time_base > 60
        assert stream.duration
        assert stream.time_base
        assert float(stream.duration * stream.time_base) > 60
    assert [time for time, _ in shown()] == pytest.approx([each / 1000 for each in times_ms], abs=1e-3)


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


def test_masks_in_the_folder_of_the_frames_are_no_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run took the masks of the first one for frames."""
    frames_in(tmp_path / "frames")
    for _ in range(2):
        assert run("--point", "30,20", "-o", "frames/masks", "--coco", "out.json", frames="frames") == 0
        assert [each["file_name"] for each in read()["images"]] == [f"frames/{n}.png" for n in range(8, 12)]
    assert "left out frames/masks/001/000000.png" in capsys.readouterr().err
    assert run("--point", "30,20", "--coco", "out.json", frames="frames/masks/001") == 0
    assert len(read()["images"]) == 4


def test_a_picture_alone_is_a_frame(tmp_path: Path) -> None:
    """A pattern may match one file, as a folder may have one. A lone GIF is a video."""
    frames_in(tmp_path / "frames")
    assert run("--point", "30,20", "--coco", "out.json", frames="frames/8.png") == 0
    assert [each["file_name"] for each in read()["images"]] == ["frames/8.png"]
    Path("clip.gif").write_bytes(clip("gif", "gif", frames=3, pix_fmt="gray"))
    assert run("--point", "30,20", "--coco", "out.json", frames="clip.gif") == 0
    assert len(read()["images"]) == 3


def test_a_picture_of_odd_size_is_shown_too(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    for number in range(2):
        Image.new("RGB", (61, 41), (10 * number, 0, 0)).save(f"odd/{number}.png")
    assert run("--point", "30,20", "--overlay", "out.mp4", frames="odd") == 0
    assert shown()[0][1].shape == (42, 62, 3)


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


@pytest.mark.parametrize(("size", "matrix"), [((64, 48), 6), ((1280, 720), 1)])
def test_an_overlay_has_its_colours_in_players(size: tuple[int, int], matrix: int) -> None:
    """Players take BT.709 for HD that does not say its matrix: red (220, 30, 40) was (236, 48, 37)."""
    video = OverlayVideo(Path("red.mp4"), rate=10)
    video.add(Image.new("RGB", size, (220, 30, 40)), 0.0)
    video.close()
    with av.open("red.mp4") as file:
        frame = next(file.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (matrix, 1)
    shown = frame.to_ndarray(format="rgb24", src_colorspace=matrix, dst_colorspace=matrix)
    assert np.abs(shown[9, 9].astype(int) - (220, 30, 40)).max() <= 2
