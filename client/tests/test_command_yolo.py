"""`sam2 export --yolo`: a data set as Ultralytics reads it, whose labels are the masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sam2_client import rle, yolo
from sam2_client.command import main
from sam2_client.pictures import open_picture
from tests.fakes import RADII, disc_mask, picture
from tests.rasters import HARD, beyond, ragged, rasterised

pytestmark = pytest.mark.usefixtures("commanded")


def reply(pixels: np.ndarray, **fields: Any) -> dict[str, Any]:
    """Return what `sam2 decode` writes for a mask."""
    height, width = pixels.shape
    rows, columns = np.nonzero(pixels)
    box = [0, 0, 0, 0]
    if rows.size:
        low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
        box = [int(value) for value in (*low, high[0] - low[0], high[1] - low[1])]
    mask = {"rle": rle.encode(pixels), "iou": 0.9, "stability": 0.9, "area": int(pixels.sum()), "bbox": box}
    return {"image_id": "x", "width": width, "height": height, "predictions": [{"masks": [mask]}], **fields}


def drawn(line: str, shape: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """Return the category and the pixels of a label. Checks what Ultralytics checks when it reads it."""
    category, *numbers = line.split()
    points = np.array(numbers, float).reshape(-1, 2)
    assert len(points) >= 3
    assert points.min() >= 0
    assert points.max() <= 1
    height, width = shape
    return int(category), rasterised([points * (width, height)], (height, width))


def test_prompts_become_pictures_labels_and_names(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"picture": "a.png", "label": 'left: "é" 😀', "point_coords": [[15, 20]], "point_labels": [1]},
        {"picture": "a.png", "label": "no", "point_coords": [[45, 20]], "multimask_output": False},
        {"picture": "more/c.png", "label": "no", "box": [10, 10, 30, 30]},
        {"picture": "b.PNG", "point_coords": [[-60, -40]], "point_labels": [1]},
    ]
    (photos / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["export", "photos/prompts.jsonl", "--yolo", "set", "--coco", "out.json"]) == 0
    printed = capsys.readouterr()
    assert "set: 3 images, 3 labels" in printed.out
    assert "1 masks are empty" in printed.err
    assert Path("out.json").exists()
    data = yaml.safe_load(Path("set/data.yaml").read_text("utf-8"))
    assert data == {"train": "images/train", "val": "images/train", "names": {0: 'left: "é" 😀', 1: "no"}}
    for name in ("a.png", "b.PNG", "more/c.png"):
        copied = Path("set/images/train", name.replace("/", "-"))
        assert copied.read_bytes() == (photos / name).read_bytes()
    labels = Path("set/labels/train")
    first, second = [drawn(line, (40, 60)) for line in (labels / "a.txt").read_text().splitlines()]
    assert (first[0], second[0]) == (0, 1)
    assert np.array_equal(first[1], disc_mask(15, 20, RADII[2], height=40, width=60))
    assert np.array_equal(second[1], disc_mask(45, 20, RADII[1], height=40, width=60))
    assert (labels / "b.txt").read_text() == "", "a picture without objects is background"


def test_parts_and_holes_are_one_line(truck: Path) -> None:
    masks = {**HARD, **{f"random-{seed}": ragged(seed) for seed in range(40)}}
    for name, pixels in masks.items():
        Path(f"{name}.json").write_text(json.dumps(reply(pixels, picture=f"{name}.png")))
        Path(f"{name}.png").write_bytes(picture(*pixels.shape[::-1]))
    for simplify in (0, 1):
        assert main(["export", "*.json", "--yolo", f"set {simplify}", "--simplify", str(simplify)]) == 0
        for name, pixels in masks.items():
            file = Path(f"set {simplify}/labels/train/{name.replace(' ', '-')}.txt")
            lines = file.read_text().splitlines()
            assert len(lines) == bool(pixels.any())
            for line in lines:
                category, found = drawn(line, pixels.shape)
                assert category == 0
                assert beyond(found, pixels, reach=1) == 0, name
                assert simplify or np.array_equal(found, pixels), name


def test_no_two_pictures_have_one_label_file(truck: Path) -> None:
    names = [
        "a.png",
        "A.PNG",
        "a.jpg",
        "b/c.png",
        "b-c.png",
        "../up.png",
        "/pictures/up.png",
        "x" * 300 + ".png",
        "..",
        "-",
    ]
    for number, name in enumerate(names):
        Path(f"{number}.json").write_text(json.dumps(reply(np.ones((4, 4), bool), picture=name)))
    assert main(["export", *[f"{number}.json" for number in range(len(names))], "--yolo", "set"]) == 1
    files = [path.name for path in Path("set/labels/train").iterdir()]
    assert len({name.casefold() for name in files}) == len(names)
    assert all(len(name.encode()) <= 255 for name in files)


def test_pictures_get_suffixes_that_ultralytics_reads(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It passes over others without a word."""
    with Image.open("photos/a.png") as opened:
        shown = opened.convert("RGB")
    shown.save("windows.jfif", "JPEG")
    shown.save("first.gif", save_all=True, append_images=[shown.rotate(180)])
    shown.save("v1.2 bare", "PNG")
    names = ["windows.jfif", "first.gif", "v1.2 bare", "photos/b.PNG"]
    lines = [json.dumps({"picture": name, "point_coords": [[30, 20]]}) for name in names]
    Path("prompts.jsonl").write_text("\n".join(lines))
    assert main(["export", "prompts.jsonl", "--yolo", "set"]) == 0
    images = {path.name: path for path in Path("set/images/train").iterdir()}
    assert sorted(images) == ["first.png", "photos-b.PNG", "v1.2-bare.png", "windows.jpg"]
    assert images["windows.jpg"].read_bytes() == Path("windows.jfif").read_bytes()
    assert images["v1.2-bare.png"].stat().st_size
    assert np.array_equal(open_picture(images["first.png"]), open_picture("first.gif"))
    labels = {path.stem for path in Path("set/labels/train").iterdir()}
    assert labels == {path.stem for path in images.values()}
    with Path("first.gif").open("r+b") as cut:
        cut.truncate(99)
    Path("1.json").write_text(json.dumps(reply(np.ones((4, 4), bool), picture="first.gif")))
    assert main(["export", "1.json", "--yolo", "other"]) == 1
    target = Path("other/images/train/first.png")
    assert f"first.gif: YOLO does not read it; convert it to {target} (" in capsys.readouterr().err


def test_a_picture_that_is_not_there_is_named(truck: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("1.json").write_text(json.dumps(reply(np.ones((4, 4), bool), picture="gone.png")))
    assert main(["export", "1.json", "--yolo", "set"]) == 1
    target = Path("set/images/train/gone.png")
    assert f"gone.png is not found: copy it to {target}\n" in capsys.readouterr().err
    assert Path("set/labels/train/gone.txt").read_text()
    Path("1.json").write_text(json.dumps(reply(np.ones((4, 4), bool), picture="truck")))  # curl: an id
    assert main(["export", "1.json", "--yolo", "other"]) == 1
    target = Path("other/images/train/truck")
    assert f"truck is not found: copy it to {target} with the suffix of its kind" in capsys.readouterr().err


def test_old_labels_are_not_mixed_in(truck: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "truck.png", "--point", "30,20", "-o", "1.json"]) == 0
    assert main(["export", "1.json", "--yolo", "set"]) == 0
    assert main(["export", "1.json", "--yolo", "set"]) == 1
    assert "set is not empty: name a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ([], "give --coco FILE, --yolo FOLDER, or both"),
        (["--yolo", "set", "--polygons"], "--polygons requires --coco"),
        (["--coco", "out.json", "--simplify", "1"], "--simplify requires --polygons or --yolo"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    truck: Path, options: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "1.json", *options]) == 2
    assert what in capsys.readouterr().err


def test_a_label_has_the_precision_of_the_largest_picture(truck: Path) -> None:
    pixels = np.zeros((3, 60_000), bool)
    pixels[1, 59_990:59_991] = True
    mask = next(iter(_instances(pixels))).mask
    assert np.array_equal(drawn(yolo.to_line(mask, 7), pixels.shape)[1], pixels)


def _instances(pixels: np.ndarray) -> Any:
    from sam2_client.coco import read_reply

    Path("one.json").write_text(json.dumps(reply(pixels)))
    return read_reply(Path("one.json"))
