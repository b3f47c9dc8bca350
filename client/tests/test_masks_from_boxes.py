"""`sam2 masks-from-boxes`: the same COCO file with masks, whatever its boxes are."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_files import COMMAND, box_set, boxed, by_id, read, write
from client_server import Served, real_server
from pycocotools.coco import COCO

from app.settings import Settings
from sam2_client.command import main
from tests.fakes import RADII, SINGLE_IOU, disc_mask

pytestmark = pytest.mark.usefixtures("commanded")


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
    assert ("loadRes" in error) == (content == "[]")


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
    assert main(["masks-from-boxes", "boxes.json", "photos", "fotos", "-o", "out.json"]) == 1
    assert capsys.readouterr().err.endswith("sam2: [Errno 2] No such file or directory: 'fotos'\n")
    assert main(COMMAND) == 0, "no boxes are no failure"
    assert read() == box_set()


@pytest.mark.usefixtures("photos")
def test_a_number_longer_than_floats_spoils_its_own_box_only(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        box_set(boxed(1, 7, [10**400, 0, 5, 5]), boxed(2, 7, [1, 2, 10**310, 9]), boxed(3, 7, [9, 9, 9, 9]))
    )
    assert main(COMMAND) == 1
    assert "kept as they were: annotations 1, 2\n" in capsys.readouterr().err
    assert "segmentation" in by_id(read())[3]
