"""`sam2 masks-from-boxes` of YOLO's labels: a COCO file with their boxes, masks and names."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from box_files import read
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam2_client.command import main
from tests.fakes import RADII, disc_mask

pytestmark = pytest.mark.usefixtures("commanded")


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
        ("classes.txt", "\ufeffcat\r\nbig, dog\r\nx\r\n"),
        ("data.yaml", "\ufeffnames: [cat, 'big, dog', x]\r\n"),
        ("data.yaml", "base: &base\n  - cat\n  - >-\n    big,\n    dog\n  - x\nnames: *base\n"),
        ("obj.names", "cat\nbig, dog\nx"),
        ("data.yml", "names: [cat, 'big, dog', x]\n"),
    ],
)
def test_names_of_categories(photos: Path, name: str, content: str) -> None:
    Path("set/labels/train").mkdir(parents=True)
    mark = "\ufeff" if content.startswith("\ufeff") else ""  # Windows writes it, in all files
    Path("set/labels/train/a.txt").write_text(f"{mark}1 0.5 0.5 0.25 0.5\n", "utf-8")
    Path("set", name).write_text(content, "utf-8", newline="")
    assert main(["masks-from-boxes", "set/labels/train", "photos", "-o", "out.json"]) == 0
    assert [each["name"] for each in read()["categories"]] == ["cat", "big, dog", "x"]


@pytest.mark.parametrize(
    "content",
    [
        "names:\n- \"B\\xFCrste\"\n# the next one\n- 'no #1'\n- 'O''Brien, Jr.' # a 'name'\n- it's\n",
        "names: {0: \"B\\xFCrste\", 1: 'no #1', # it's\n  2: 'O''Brien, Jr.', 3: it's}\n",
        'names:\n  0: "B\\U000000FCrste"\n  1: "no #1" # a "name"\n  2: "O\'Brien, Jr."\n  3: it\'s #\n',
    ],
)
def test_names_with_quotes_marks_and_escapes(photos: Path, content: str) -> None:
    wanted = ["Bürste", "no #1", "O'Brien, Jr.", "it's"]
    names = yaml.safe_load(content)["names"]
    assert [*(names.values() if isinstance(names, dict) else names)] == wanted
    Path("labels").mkdir()
    Path("labels/a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    Path("labels/data.yaml").write_text(content)
    assert main(["masks-from-boxes", "labels", "photos", "-o", "out.json"]) == 0
    assert [each["name"] for each in read()["categories"]] == wanted


def test_names_are_text_whatever_yaml_takes_them_for(photos: Path) -> None:
    Path("labels").mkdir()
    Path("labels/a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    Path("labels/data.yaml").write_text("names: [no, 1.0, null, 2026-11-30]\n")
    assert main(["masks-from-boxes", "labels", "photos", "-o", "out.json"]) == 0
    assert [each["name"] for each in read()["categories"]] == ["no", "1.0", "null", "2026-11-30"]


@pytest.mark.parametrize(
    "content", ["names: [cat, dog\n", "names:\n  0: 'cat\n", "\tnames: [cat]\n", "names: " + "[" * 5000]
)
def test_a_data_yaml_that_is_none(photos: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    Path("labels").mkdir()
    Path("labels/a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    Path("labels/data.yaml").write_text(content)
    Path("other.yaml").write_text("{{ not: [ours\n")
    main(["masks-from-boxes", "labels", "photos", "-o", "out.json"])
    assert [each["name"] for each in read()["categories"]] == ["0"]
    told = capsys.readouterr().err
    assert "data.yaml is left out: " in told
    assert "other.yaml" not in told


def test_names_beside_the_labels_of_a_whole_folder(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LabelImg writes classes.txt into the folder of the labels."""
    for folder, label, names in (("train", "a", "cat\ndog\n"), ("val", "b", "cat\ndog\nx\n")):
        Path("set/labels", folder).mkdir(parents=True)
        Path("set/labels", folder, f"{label}.txt").write_text("1 0.5 0.5 0.25 0.5\n")
        Path("set/labels", folder, "classes.txt").write_text(names)
    Path("classes.txt").write_text("of\nanother\nset\n")
    assert main(["masks-from-boxes", "set", "photos", "-o", "out.json"]) == 0
    assert [each["name"] for each in read()["categories"]] == ["cat", "dog", "x"]
    assert "no name" not in capsys.readouterr().err
    Path("set/labels/val/classes.txt").write_text("dog\ncat\n")
    assert main(["masks-from-boxes", "set", "photos", "-o", "out.json"]) == 1
    told = "category 0 is cat in set/labels/train, but dog in set/labels/val: take these folders one by one"
    assert told in capsys.readouterr().err


def test_what_is_read_for_names_is_not_left_out(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CVAT's YOLO format."""
    Path("photos/obj_train_data").mkdir()
    Path("photos/a.png").rename("photos/obj_train_data/a.png")
    Path("photos/obj_train_data/a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    Path("photos/obj.names").write_text("cat\ndog\n")
    Path("photos/notes.txt").unlink()
    assert main(["masks-from-boxes", "photos", "photos", "-o", "out.json"]) == 0
    assert [each["name"] for each in read()["categories"]] == ["cat", "dog"]
    assert "left out" not in capsys.readouterr().err


def test_categories_without_names_are_told(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("labels").mkdir()
    Path("labels/a.txt").write_text("0 0.5 0.5 0.25 0.5\n2 0.5 0.5 0.25 0.5\n")
    Path("labels/classes.txt").write_text("cat\n")
    assert main(["masks-from-boxes", "labels", "photos", "-o", "out.json"]) == 0
    assert [each["name"] for each in read()["categories"]] == ["cat", "2"]
    assert "no name in data.yaml or classes.txt for categories 2: they get" in capsys.readouterr().err


@pytest.mark.parametrize("names", ["classes.txt", "data.yaml"])
def test_text_as_powershell_writes_it(photos: Path, names: str) -> None:
    Path("labels").mkdir()
    Path("labels/a.txt").write_text("1 0.5 0.5 0.25 0.5\n", "utf-16")
    Path("labels", names).write_text(
        "B\u00fcrste\ndog\n" if names == "classes.txt" else "names: [B\u00fcrste, dog]", "utf-16"
    )
    assert main(["masks-from-boxes", "labels", "photos", "-o", "out.json"]) == 0
    assert [each["name"] for each in read()["categories"]] == ["B\u00fcrste", "dog"]


@pytest.mark.parametrize("names", ["classes.txt", "data.yaml"])
def test_names_that_are_no_utf_8_are_told(
    photos: Path, names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("labels").mkdir()
    Path("labels/a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    Path("labels", names).write_text("names: [B\u00fcrste]\n", "latin-1")
    assert main(["masks-from-boxes", "labels", "photos", "-o", "out.json"]) == 1
    assert f"{names} is left out: it is not a text file in UTF-8\n" in capsys.readouterr().err
    assert [each["name"] for each in read()["categories"]] == ["0"]


def test_pictures_that_are_called_as_lists_of_pictures_are(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos/a.png").rename("photos/test.png")
    Path("photos/b.PNG").rename("photos/train.png")
    Path("labels").mkdir()
    Path("labels/test.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    Path("labels/train.txt").write_text("0.0 0.5 0.5 0.25 0.5\n")
    Path("labels/val.txt").write_text("")
    Path("labels/more").mkdir()
    Path("labels/more/train.txt").write_text("0001.jpg\n0002.jpg\n")  # of Darknet
    Path("labels/classes.txt").write_text("cat\n")
    assert main(["masks-from-boxes", "labels", "photos", "-o", "out.json"]) == 0
    content = read()
    assert [each["file_name"] for each in content["images"]] == ["photos/test.png", "photos/train.png"]
    assert len(content["annotations"]) == 2
    told = "left out labels/val.txt: they do not begin with the number of a category"
    assert told in capsys.readouterr().err, "it may be of a picture without objects"


def test_thousands_of_outlines_are_not_a_line_each(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("labels").mkdir()
    Path("labels/a.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n" * 3000 + "0 0.5 0.5 0.25 0.5\n")
    Path("labels/classes.txt").write_text("cat\n")
    assert main(["masks-from-boxes", "labels", "photos", "-o", "out.json"]) == 1
    error = capsys.readouterr().err
    assert error.count(" is left out: it has 7 numbers, but a box is: ") == 20
    assert "sam2: 2980 more lines are left out for such reasons\n" in error
    assert len(read()["annotations"]) == 1


def test_a_folder_without_labels(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["masks-from-boxes", "photos/more", "photos", "-o", "out.json"]) == 1
    assert (
        "photos/more has no label files: name a COCO file, or the folder of YOLO's" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("labels", "pictures"),
    [
        ("export", "export"),
        ("export/train", "export"),
        ("export/train", "export/train/images"),
        ("export/train/labels", "export/train"),
    ],
)
def test_the_folders_of_roboflow_and_ultralytics(
    photos: Path, labels: str, pictures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, name in [("train", "a.png"), ("valid", "b.PNG")]:
        for folder in ("images", "labels"):
            Path("export", part, folder).mkdir(parents=True)
        (photos / name).rename(Path("export", part, "images", name))
        Path("export", part, "labels", name).with_suffix(".txt").write_text(
            "0 0.5 0.5 0.2 0.2\r\n", newline=""
        )
    Path("export/data.yaml").write_text("train: ../train/images\nnc: 1\nnames: ['cat']\n")
    Path("export/README.roboflow.txt").write_text("\nset - v1\n====\n\n3 of 4 pictures were left out.\n")
    assert main(["masks-from-boxes", labels, pictures, "-o", "out.json"]) == 0
    said = capsys.readouterr().err
    assert ("left out export/README.roboflow.txt: they do not begin with the number" in said) == (
        labels == "export"
    )
    assert ".txt: their names" not in said, "they are read as labels"
    assert "data.yaml" not in said
    data = read()
    expected = ["export/train/images/a.png", "export/valid/images/b.PNG"]
    assert [image["file_name"] for image in data["images"]] == expected[: 2 if labels == "export" else 1]
    assert all("segmentation" in annotation for annotation in data["annotations"])


def test_a_picture_at_the_labels_own_path_goes_before_one_among_images(photos: Path) -> None:
    for folder, name in [("labels", "a.png"), ("images", "b.PNG")]:
        Path("set", folder).mkdir(parents=True)
        (photos / name).rename(Path("set", folder, "x.png"))
    Path("set/labels/x.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert main(["masks-from-boxes", "set", "set", "-o", "out.json"]) == 0
    assert [image["file_name"] for image in read()["images"]] == ["set/labels/x.png"]


def test_a_folder_of_prose_has_no_labels(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["masks-from-boxes", "photos", "photos", "-o", "out.json"]) == 1
    assert "photos has no label files" in capsys.readouterr().err


def test_numbers_of_categories_may_be_written_as_floats(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("labels").mkdir()
    lines = ["2.000000 0.5 0.5 0.2 0.2", "1e0 0.5 0.5 0.2 0.2", "0.5 0.5 0.5 0.2 0.2", "inf 0.5 0.5 0.2 0.2"]
    Path("labels/a.txt").write_text("\n".join(lines))
    assert main(["masks-from-boxes", "labels", "photos", "-o", "out.json"]) == 1
    assert [annotation["category_id"] for annotation in read()["annotations"]] == [2, 1]
    assert [each["name"] for each in read()["categories"]] == ["1", "2"]
    assert capsys.readouterr().err.count("has a number that is out of range") == 2


def test_what_only_looks_like_a_data_yaml_has_no_names(photos: Path) -> None:
    Path("set/labels").mkdir(parents=True)
    Path("set/labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    Path("set/backup.yaml").mkdir()
    Path("set/data.yaml").write_text("names: [cat]\n")
    assert main(["masks-from-boxes", "set/labels", "photos", "-o", "out.json"]) == 0
    assert [each["name"] for each in read()["categories"]] == ["cat"]


@pytest.mark.usefixtures("photos")
def test_boxes_without_a_mask_have_an_area_so_that_pycocotools_evaluates_the_set() -> None:
    Path("labels").mkdir()
    lines = ["0 0.5 0.5 0.25 0.5", "0 5 5 0.1 0.25", "0 0.5 0.5 -0.1 0.1"]
    Path("labels/a.txt").write_text("\n".join(lines))
    assert main(["masks-from-boxes", "labels", "photos", "-o", "out.json"]) == 1
    data = COCO("out.json")
    assert [annotation["area"] for annotation in data.anns.values()][1:] == [60, 0]
    found = {"image_id": 1, "category_id": 0, "bbox": [22.5, 10, 15, 20], "score": 1.0}
    evaluation = COCOeval(data, data.loadRes([found]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval["precision"].max() == pytest.approx(1)
