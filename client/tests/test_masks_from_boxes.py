"""`sam2 masks-from-boxes`: the same COCO file with masks, whatever its boxes and pictures are, and after a cut."""

import copy
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_server import Served, real_server
from PIL import Image
from pycocotools.coco import COCO

from app.settings import Settings
from sam2_client.command import main
from sam2_client.journal import Journal
from tests.fakes import RADII, SINGLE_IOU, disc_mask, picture
from tests.oriented_files import oriented_files

pytestmark = pytest.mark.usefixtures("commanded")
COMMAND = ["masks-from-boxes", "boxes.json", "photos", "-o", "out.json"]


def box_set(*annotations: dict[str, Any]) -> dict[str, Any]:
    """Return a COCO file's content about the fixture's photos, with fields that no standard knows."""
    return {
        "info": {"description": "mine", "secret": [1, {"a": None}]},
        "licenses": [],
        "images": [
            {"id": 7, "file_name": "a.png", "width": 60, "height": 40, "camera": "left"},
            {"id": "b", "file_name": "b.PNG", "width": 61, "height": 40},
            {"id": 30, "file_name": "more/c.png", "width": 62, "height": 40},
        ],
        "annotations": list(annotations),
        "categories": [{"id": 90, "name": "wheel", "keypoints": ["x"]}, {"id": 0, "name": "toy"}],
        "my_field": 1e-7,
    }


def boxed(number: Any, image: Any, bbox: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 90, "bbox": bbox, **more}


def write(content: Any, file: str = "boxes.json") -> None:
    Path(file).write_text(json.dumps(content))


def read(file: str = "out.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(file).read_text())
    return content


def by_id(content: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    return {annotation["id"]: annotation for annotation in content["annotations"]}


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("form", [[], ["--polygons"]])
def test_everything_but_the_masks_stays_as_it_was(
    capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    before = box_set(
        boxed(5, 7, [10, 10, 20, 20], attributes={"occluded": True}, track_id="t"),
        boxed(2, 30, [30.5, 5, 12, 9.25], category_id=0, iscrowd=0, segmentation=[], area=0),
        boxed("x", "b", [40, 20, 8, 8], score=0.123),
    )
    write(before)
    assert main([*COMMAND, *form]) == 0
    printed = capsys.readouterr()
    assert "out.json: 3 masks, 3 images" in printed.out
    after = read()
    assert list(after) == list(before)
    new = {"segmentation", "area", "score", "stability", "box_score"}
    old = copy.deepcopy(before)
    for changed, annotation in zip(after["annotations"], old["annotations"], strict=True):
        assert {k: v for k, v in changed.items() if k not in new} == {
            k: v for k, v in annotation.items() if k not in new
        }
        assert changed["score"] == SINGLE_IOU
    assert {k: v for k, v in after.items() if k != "annotations"} == {
        k: v for k, v in old.items() if k != "annotations"
    }
    assert by_id(after)["x"]["box_score"] == 0.123
    data = COCO("out.json")
    for number, image, (x, y, w, h) in [(5, 7, (10, 10, 20, 20)), (2, 30, (30.5, 5, 12, 9.25))]:
        width = data.imgs[image]["width"]
        expected = disc_mask(x + w / 2, y + h / 2, RADII[1], height=40, width=width)
        assert np.array_equal(data.annToMask(data.anns[number]), expected)
        assert data.anns[number]["area"] == expected.sum()


@pytest.mark.usefixtures("photos")
def test_boxes_that_are_none_are_a_line_and_stay(capsys: pytest.CaptureFixture[str]) -> None:
    bad: list[Any] = [
        None,
        [],
        [1, 2, 3],
        [1, 2, 3, "4"],
        [1, 2, 0, 5],
        [1, 2, -3, 5],
        [60, 0, 5, 5],
        [-9, 3, 9, 5],
        [1, float("nan"), 3, 3],
        [1, 2, True, 4],
        [1e308, 0, 1e308, 5],
        {"x": 1},
    ]
    before = box_set(*(boxed(number, 7, bbox) for number, bbox in enumerate(bad)), boxed(50, 7, [9, 9, 9, 9]))
    del before["annotations"][0]["bbox"]
    write(before)
    assert main(COMMAND) == 1
    printed = capsys.readouterr()
    assert (
        "sam2: a.png: boxes without area, or wholly outside the picture, are kept as they were: annotations "
        f"{', '.join(map(str, range(12)))}\n"
    ) in printed.err
    assert "1 masks" in printed.out
    assert "12 boxes without mask" in printed.out
    after = by_id(read())
    assert json.dumps([after[number] for number in range(12)]) == json.dumps(before["annotations"][:12])
    assert "segmentation" in after[50]
    assert not Path("out.json.partial").exists(), "no further run could change it"


@pytest.mark.parametrize("name", ["a.png", "./a.png", "elsewhere/a.png"])
@pytest.mark.usefixtures("photos", "served")
def test_two_entries_for_one_file_are_a_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = box_set(boxed(1, 7, [1, 1, 9, 9]), boxed(2, 8, [20, 20, 9, 9]))
    before["images"].append({"id": 8, "file_name": name, "width": 60, "height": 40})
    write(before)
    code = main(COMMAND)
    error = capsys.readouterr().err
    if name.startswith("elsewhere"):  # not the same name: that is told as before
        assert code == 1
        assert "may be another one" in error
    else:
        assert code == 0
        assert f"2 entries of images are one file, {Path('photos/a.png')}: a.png, {name}. " in error
        assert all("segmentation" in each for each in read()["annotations"])


@pytest.mark.usefixtures("photos")
def test_boxes_over_the_edge_are_clipped_with_a_line(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        box_set(
            boxed(1, 7, [-5, 10, 20, 50]), boxed(2, 7, [10, 10, 50.004, 20]), boxed(3, 7, [50, 30, 1e9, 1e9])
        )
    )
    assert main(COMMAND) == 0
    printed = capsys.readouterr()
    assert "sam2: a.png: boxes over the edge are clipped: annotations 1, 3\n" in printed.err
    assert "2 boxes clipped" in printed.out
    after = by_id(read())
    assert [after[number]["bbox"] for number in (1, 2, 3)] == [
        [0, 10, 15, 30],
        [10, 10, 50.004, 20],  # was rounded
        [50, 30, 10, 10],
    ]
    sent = [prompt.box for batch in served.segmenter.decoded[-3:] for prompt in batch][-3:]
    assert set(sent) == {(0, 10, 15, 40), (10, 10, 60, 30), (50, 30, 60, 40)}


@pytest.mark.usefixtures("photos")
def test_crowds_stay_and_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    crowd = boxed(1, 7, [1, 1, 5, 5], iscrowd=1, segmentation={"size": [40, 60], "counts": [2400]}, area=9)
    write(box_set(crowd, boxed(2, 7, [1, 1, 5, 5], iscrowd=0)))
    assert main(COMMAND) == 0
    assert "1 masks, 3 images, 1 crowd regions untouched" in capsys.readouterr().out
    assert by_id(read())[1] == crowd


def test_pictures_that_are_missing_or_other_ones_are_a_line_each(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = box_set(
        boxed(1, 7, [1, 1, 9, 9]),
        boxed(2, "b", [1, 1, 9, 9]),
        boxed(3, 30, [1, 1, 9, 9]),
        boxed(4, 99, [1, 1, 9, 9]),
        boxed(5, [7], [1, 1, 9, 9]),
    )
    before["annotations"].append("no object")
    before["images"][1]["width"] = 640
    before["images"] += ["a.png", {"id": 99}, {"id": 7, "file_name": "a.png"}, {"id": [], "file_name": "x"}]
    (photos / "a.png").unlink()
    write(before)
    assert main(COMMAND) == 1
    error = capsys.readouterr().err
    assert "sam2: a.png: no such picture; its 1 boxes are kept as they were\n" in error
    assert (
        "sam2: b.PNG: the file says 640 x 40 pixels, but the picture has 61 x 40: it was stretched" in error
    )
    assert "annotations 4, 5 are kept as they were: their picture is not one of images" in error
    assert "entry 6 of annotations is not an object" in error
    assert "entry 5 of images cannot be used: it has no 'file_name'" in error
    assert "entry 6 of images cannot be used: its id 7 is that of another one" in error
    assert "2 of 3 pictures failed; the same command tries only these again" in error
    after = read()
    assert after["annotations"][0] == before["annotations"][0]
    assert after["annotations"][1] == before["annotations"][1]
    assert after["annotations"][3:] == before["annotations"][3:]
    assert "segmentation" in after["annotations"][2]
    assert after["images"] == before["images"]


def test_pictures_with_one_name_are_told_apart_by_their_folders(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, folder in enumerate(("one", "two", "three/one")):
        (photos / folder).mkdir(parents=True)
        (photos / folder / "same.png").write_bytes(picture(60, 50 + number, shade=number))
    names = {
        1: ("one/same.png", 50),
        2: ("two\\same.png", 51),
        3: ("/data/set/photos/three/one/same.png", 52),
        4: ("same.png", None),
        5: ("four/same.png", None),
        6: ("elsewhere/a.png", 40),
        7: ("../photos/b.PNG", 40),
        8: ("", None),
    }
    write(
        {
            "images": [{"id": number, "file_name": name} for number, (name, _) in names.items()],
            "annotations": [boxed(number, number, [10, 10, 9, 9]) for number in names],
        }
    )
    assert main(COMMAND) == 1
    error = capsys.readouterr().err
    assert "same.png: it may be photos/one/same.png or photos/three/one/same.png or photos/two/same" in error
    assert "four/same.png: no such picture" in error
    for number, annotation in by_id(read()).items():
        height = names[number][1]
        assert ("segmentation" in annotation) == (height is not None)
        if height is not None:
            assert annotation["segmentation"]["size"][0] == height


def test_one_file_is_not_taken_for_two_pictures(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        {
            "images": [
                {"id": 1, "file_name": "one/a.png"},
                {"id": 2, "file_name": "two/a.png"},
                {"id": 3, "file_name": "three/b.PNG"},
            ],
            "annotations": [boxed(number, number, [10, 10, 9, 9]) for number in (1, 2, 3)],
        }
    )
    assert main(COMMAND) == 1
    error = capsys.readouterr().err
    assert "one/a.png: no such picture in its own folder; photos/a.png may be another one" in error
    assert ["segmentation" in each for each in read()["annotations"]] == [False, False, True]


def test_boxes_lie_on_the_picture_as_it_is_shown(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = oriented_files()["JPEG 6"].data
    (photos / "turned.jpg").write_bytes(data)
    width, height = Image.open(io.BytesIO(data)).size
    entry = {"id": 1, "file_name": "turned.jpg", "width": height, "height": width}
    write({"images": [entry], "annotations": [boxed(1, 1, [10, 100, 40, 40])]})
    assert main(COMMAND) == 0
    (annotation,) = read()["annotations"]
    assert annotation["segmentation"]["size"] == [width, height]
    assert COCO("out.json").annToMask(annotation)[120, 30]
    entry |= {"width": width, "height": height}
    write({"images": [entry], "annotations": [boxed(1, 1, [10, 10, 40, 40])]})
    assert main(COMMAND) == 1
    assert f"the picture has {height} x {width} (turned by EXIF, as it is shown)" in capsys.readouterr().err


@pytest.mark.usefixtures("photos")
def test_thousands_of_boxes_are_sent_in_requests_that_the_server_accepts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(3)  # noqa: S311
    boxes = [(chance.uniform(1, 40), chance.uniform(1, 25)) for _ in range(25)]
    write(box_set(*(boxed(number, 7, [x, y, 10, 10]) for number, (x, y) in enumerate(boxes))))
    with real_server(Settings(workers=1, max_prompts=10)) as served:
        monkeypatch.setenv("SAM2_URL", served.url)
        assert main(COMMAND) == 0
        assert served.trouble.asked.count("POST /decode") == 3
        assert served.trouble.asked.count("POST /embed") == 1
    data = COCO("out.json")
    for number, (x, y) in enumerate(boxes):
        expected = disc_mask(x + 5, y + 5, RADII[1], height=40, width=60)
        assert (data.annToMask(data.anns[number]) != expected).mean() < 0.001


def test_a_cut_run_goes_on_where_it_was(
    photos: Path, served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        box_set(
            boxed(1, 7, [1, 1, 9, 9]), boxed(2, "b", [-1, 1, 9, 9]), boxed(3, 30, [1, 1, 9, 9], score=0.5)
        )
    )
    assert main(COMMAND) == 0
    uncut = read()
    real = Journal.__setitem__

    def keep(self: Journal, key: str, value: Any) -> None:
        real(self, key, value)
        if len(self) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "__setitem__", keep)
        assert main([*COMMAND, "--concurrency", "1"]) == 130
    assert "stopped: 2 of 3 pictures are done" in capsys.readouterr().err
    served.trouble.asked.clear()
    assert main(COMMAND) == 0
    assert served.trouble.asked.count("POST /decode") == 1
    assert "1 boxes clipped" in capsys.readouterr().out, "of the first part too"
    assert read() == uncut
    assert not Path("out.json.partial").exists()


def test_another_file_of_boxes_does_not_take_over_a_journal(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = box_set(boxed(1, 7, [1, 1, 9, 9]), boxed(2, "b", [1, 1, 9, 9]))
    (photos / "b.PNG").unlink()
    write(content)
    assert main(COMMAND) == 1
    content["annotations"][0]["bbox"][0] = 2
    write(content)
    assert main(COMMAND) == 1
    assert "a run with another boxes has done so far" in capsys.readouterr().err


@pytest.mark.usefixtures("photos")
def test_what_is_uncertain_is_listed_at_the_end(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(box_set(*(boxed(number, 7, [1, 1, 9, 9]) for number in range(25))))
    assert main(COMMAND) == 0
    assert "uncertain" not in capsys.readouterr().out
    assert main([*COMMAND, "--uncertain", "0.8"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("uncertain: 25 of 25 masks have a predicted IoU below 0.8. Annotations, the least")
    assert "7 (0.75)" in last
    assert last.endswith("and 5 more")


@pytest.mark.usefixtures("photos")
def test_names_in_a_file_cannot_write_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a\nsam2: done", "\x1b[2J", "\ud800", "\0"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    boxes = [boxed(name, number, [1, 1, 5, 5]) for number, name in enumerate(names)]
    images.append({"id": 4, "file_name": "a.png"})
    write({"images": images, "annotations": [*boxes, boxed("\ud800\x1b", 4, [1, 1, 5, 5])]})
    assert main([*COMMAND, "--uncertain", "1"]) == 1
    printed = capsys.readouterr()
    missing = [line for line in printed.err.splitlines() if "no such picture" in line]
    assert sorted(line.split(": no")[0] for line in missing) == sorted(
        ["sam2: a\\nsam2: done", "sam2: \\x1b[2J", "sam2: \\ud800", "sam2: \\x00"]
    )
    assert "the least certain first: \\ud800\\x1b (0.75)" in printed.out


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '{"images": {}, "annotations": []}', "5"])
def test_a_file_that_is_no_data_set_is_said_to_be_none(
    photos: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    Path("boxes.json").write_text(content)
    assert main(COMMAND) == 1
    error = capsys.readouterr().err
    assert error.startswith("sam2: boxes.json is not a ")
    assert "Traceback" not in error


@pytest.mark.usefixtures("photos")
def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    write(box_set())
    for arguments, what in [
        (
            ["masks-from-boxes", "boxes.json", "photos", "-o", "boxes.json"],
            "-o boxes.json is the file of boxes",
        ),
        (["masks-from-boxes", "boxes.json", "photos", "-o", "photos"], "-o photos is a folder"),
        ([*COMMAND, "--simplify", "2"], "--simplify requires --polygons"),
    ]:
        assert main(arguments) == 2
        assert what in capsys.readouterr().err
    assert main(["masks-from-boxes", "gone.json", "photos", "-o", "out.json"]) == 1
    assert "gone.json" in capsys.readouterr().err
    assert main(COMMAND) == 0, "no boxes are no failure"
    assert read() == box_set()


def test_labels_of_yolo_become_coco(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = Path("labels/more")
    labels.mkdir(parents=True)
    (labels.parent / "a.txt").write_text(
        "2 0.5 0.5 0.25 0.5\n\n0 0.25 0.25 0.1 0.1 0.77\n7 0.9 0.5 0.5 0.5\n"
    )
    (labels.parent / "b.txt").write_text("")
    (labels / "c.txt").write_text("0 0.5 0.5 0.5\n0 0.5 x 0.5 0.5\n1 0.5 0.5 0.2 0.2\n0 5 5 0.1 0.1\n")
    (labels.parent / "gone.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    Path("data.yaml").write_text("train: images\nnames:\n  0: cat\n  1: 'big dog'\n  2: \"\\u00fc\"\nnc: 3\n")
    assert main(["masks-from-boxes", "labels", "photos", "-o", "out.json"]) == 1
    error = capsys.readouterr().err
    assert (
        "labels/more/c.txt, line 1 is left out: it has 4 numbers, but a box is: category x y width" in error
    )
    assert (
        "labels/more/c.txt, line 2 is left out: '0 0.5 x 0.5 0.5' is not: category x y width height" in error
    )
    assert "gone: no such picture; its 1 boxes are left out" in error
    assert "more/c: boxes without area, or wholly outside" in error
    data = COCO("out.json")
    assert [image["file_name"] for image in data.imgs.values()] == [
        "photos/a.png",
        "photos/b.PNG",
        "photos/more/c.png",
    ]
    assert {number: category["name"] for number, category in data.cats.items()} == {
        0: "cat",
        1: "big dog",
        2: "ü",
        7: "7",
    }
    first, second, third, fourth, outside = data.anns.values()
    assert [first["category_id"], first["bbox"]] == [2, [22.5, 10, 15, 20]]
    assert np.array_equal(data.annToMask(first), disc_mask(30, 20, RADII[1], height=40, width=60))
    assert second["box_score"] == 0.77
    assert third["bbox"] == [39, 10, 21, 20], "clipped"
    assert fourth["image_id"] == 4
    assert "segmentation" not in outside
    assert outside["bbox"][0] > 62


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.yaml", "names: [cat, 'big, dog', \"x\"]\n"),
        ("data.yaml", "names:\n  - cat\n\n  - big, dog\n  - x # a comment\nnc: 3\n"),
        ("data.yaml", "nc: 3\nnames: {0: cat, 1: 'big, dog',\n  2: x}\n"),
        ("classes.txt", "cat\nbig, dog\nx\n"),
        ("obj.names", "cat\nbig, dog\nx"),
    ],
)
def test_names_of_categories(photos: Path, name: str, content: str) -> None:
    Path("set/labels/train").mkdir(parents=True)
    Path("set/labels/train/a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    Path("set", name).write_text(content)
    assert main(["masks-from-boxes", "set/labels/train", "photos", "-o", "out.json"]) == 0
    assert [each["name"] for each in read()["categories"]] == ["cat", "big, dog", "x"]


def test_a_folder_without_labels(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["masks-from-boxes", "photos/more", "photos", "-o", "out.json"]) == 1
    assert (
        "photos/more has no label files: name a COCO file, or the folder of YOLO's" in capsys.readouterr().err
    )
