"""`sam2 masks-from-boxes`: which picture a COCO file means, and pictures that are missing or other ones."""

import io
from pathlib import Path
from typing import Any

import pytest
from box_files import COMMAND, box_set, boxed, by_id, read, write
from PIL import Image
from pycocotools.coco import COCO

from sam2_client import picture_names
from sam2_client.command import main
from sam2_client.named_files import NamedFile
from tests.fakes import picture
from tests.oriented_files import oriented_files

pytestmark = pytest.mark.usefixtures("commanded")


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
    assert "entry 4 of images cannot be used: it is not an object" in error
    assert "entry 5 of images cannot be used: it has no 'file_name'" in error
    assert "entry 6 of images cannot be used: its id 7 is that of another one" in error
    assert "2 of 3 pictures failed; the same command tries only these again" in error
    after = read()
    assert after["annotations"][0] == before["annotations"][0]
    assert after["annotations"][1] == before["annotations"][1]
    assert after["annotations"][3:] == before["annotations"][3:]
    assert "segmentation" in after["annotations"][2]
    assert after["images"] == before["images"]


@pytest.mark.usefixtures("photos")
def test_a_part_of_the_pictures_is_not_a_line_for_each_other_one(capsys: pytest.CaptureFixture[str]) -> None:
    before = box_set(boxed(1, 7, [1, 1, 9, 9]), boxed(2, "b", [55, 1, 9, 9]))
    before["images"] += [{"id": number, "file_name": f"{number}.jpg"} for number in range(1000, 3000)]
    before["annotations"] += [boxed(number, 1000 + number % 2000, [1, 1, 9, 9]) for number in range(4000)]
    write(before)
    assert main(COMMAND) == 1
    error = capsys.readouterr().err
    assert "b.PNG: boxes over the edge are clipped: annotations 2" in error
    assert error.count("no such picture; its 2 boxes are kept as they were\n") == 20
    assert "sam2: 1980 more pictures are missing; their 3960 boxes are kept as they were\n" in error
    assert "2000 of 2002 pictures failed" in error
    assert len(error.splitlines()) == 24, "with notes.txt, which is no picture"


@pytest.mark.usefixtures("photos")
def test_thousands_of_entries_without_a_file_are_not_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    before = box_set(boxed(1, 7, [1, 1, 9, 9]))
    before["images"] += [{"id": number, "coco_url": f"http://x/{number}.jpg"} for number in range(100, 2100)]
    write(before)
    assert main(COMMAND) == 1
    error = capsys.readouterr().err
    assert error.count(" of images cannot be used: it has no 'file_name'\n") == 20
    assert "sam2: 1980 more entries of images cannot be used\n" in error
    assert "segmentation" in read()["annotations"][0]


@pytest.mark.usefixtures("photos")
def test_boxes_of_an_id_that_two_pictures_have_get_no_masks(capsys: pytest.CaptureFixture[str]) -> None:
    """Of data sets that were put together without new ids: the boxes of one lie on the other's pictures."""
    before = box_set(boxed(1, 7, [1, 1, 9, 9]), boxed(2, 7, [1, 1, 9, 9]), boxed(3, "b", [1, 1, 9, 9]))
    before["images"] += [{"id": 7, "file_name": "more/c.png"}, {"id": "b", "file_name": "b.PNG"}]
    write(before)
    assert main(COMMAND) == 1
    assert "annotations 1, 2 are kept as they were: several pictures have" in capsys.readouterr().err
    after = read()
    assert after["annotations"][:2] == before["annotations"][:2]
    assert "segmentation" in after["annotations"][2], "its picture stands there twice"


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
@pytest.mark.parametrize("size", [{}, {"width": None, "height": 40}, {"width": 0, "height": 0}])
def test_a_size_that_the_file_does_not_have_is_added(size: dict[str, Any]) -> None:
    before = box_set(boxed(1, 7, [9, 9, 20, 20]), boxed(2, 30, [9, 9, 20, 20]))
    for entry in before["images"]:
        del entry["width"], entry["height"]
        entry |= size
    write(before)
    for form in ([], ["--polygons"]):
        assert main([*COMMAND, *form]) == 0
        first, unboxed, third = read()["images"]
        assert first == {**before["images"][0], "width": 60, "height": 40}
        assert unboxed == before["images"][1], "no box, so not opened"
        assert (third["width"], third["height"]) == (62, 40)
        data = COCO("out.json")
        assert data.annToMask(data.anns[2]).shape == (40, 62)


@pytest.mark.parametrize("start", ["", "/home/me/"])
def test_frames_of_many_videos_are_found_by_looking_up_and_not_one_by_one(
    start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0

    class Parts(tuple[str, ...]):
        __slots__ = ()
        __hash__ = tuple.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return tuple.__eq__(self, other)

        def __getitem__(self, at: Any) -> Any:
            part = tuple.__getitem__(self, at)
            return Parts(part) if isinstance(at, slice) else part

    real = picture_names._parts
    monkeypatch.setattr(picture_names, "_parts", lambda name: Parts(real(name)))
    root = Path("/data/frames")
    inside = [f"{video}/{frame}.jpg" for video in range(100) for frame in range(5)]
    files = [NamedFile(root / name, root) for name in inside]
    found = picture_names.find([start + name for name in inside], files)
    assert list(found.values()) == [file.path for file in files]
    assert compared < 10 * len(files), "each with the 100 of its name would be 50,000 and more"


def found_in(*files: str, name: str) -> Path | str:
    root = Path("/data/photos")
    return picture_names.find([name], [NamedFile(root / file, root) for file in files])[name]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("my%20photo.jpg", "my photo.jpg"),
        ("/data/local-files/?d=day%201/my%20photo.jpg", "day 1/my photo.jpg"),
        ("/data/local-files/?d=a.jpg", "a.jpg"),
        ("https://there/bucket/photos/day/a.jpg?X-Date=1&Sign=2/3", "day/a.jpg"),
        ("IMG_1.JPG", "img_1.jpg"),
        ("C:\\Photos\\Day\\IMG_1.JPG", "day/img_1.jpg"),
        ("100%25.jpg", "100%.jpg"),
    ],
)
def test_a_name_may_be_an_address_or_of_a_system_without_case(name: str, file: str) -> None:
    assert found_in(file, "other.jpg", name=name) == Path("/data/photos", file)


def test_what_is_written_exactly_goes_first_and_one_file_only_counts() -> None:
    assert found_in("my%20photo.jpg", "my photo.jpg", name="my%20photo.jpg") == Path(
        "/data/photos/my%20photo.jpg"
    )
    assert found_in("what?.jpg", "what", name="what?.jpg") == Path("/data/photos/what?.jpg")
    assert found_in("A.jpg", "a.jpg", name="a.jpg") == Path("/data/photos/a.jpg")
    assert found_in("A.jpg", "a.jpg", name="a.JPG") == "it may be /data/photos/A.jpg or /data/photos/a.jpg"
    assert found_in("a.jpg", name="b.jpg") == "no such picture"
    assert found_in("a.jpg", name="?") == "no such picture"


def test_a_file_that_another_name_means_is_not_guessed() -> None:
    root = Path("/data/photos")
    (file,) = files = [NamedFile(root / "a/1.jpg", root)]
    found = picture_names.find(["A/1.jpg", "a/1.jpg"], files)
    assert found["a/1.jpg"] == file.path
    assert found["A/1.jpg"] == "no such picture by this very name; /data/photos/a/1.jpg may be another one"
    found = picture_names.find(["A/1.jpg", "a/1.JPG"], files)
    assert not any(isinstance(each, Path) for each in found.values())


def test_of_a_thousand_files_with_one_name_a_few_are_named() -> None:
    files = [f"{video}/1.jpg" for video in range(1000)]
    a, b, c, *_ = (f"/data/photos/{file}" for file in files)
    assert found_in(*files, name="1.jpg") == f"it may be {a} or {b} or {c} or one of 997 more"
