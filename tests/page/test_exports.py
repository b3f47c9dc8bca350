"""The files that the page saves, read with the libraries that users read them with."""

import base64
import io
import json
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.fakes import RADII, disc_mask, picture
from tests.page.conftest import PageServer
from tests.page.visitor import HEIGHT, WIDTH, Visitor
from tests.rasters import HARD, assert_proper, beyond, ragged, rasterised

TRUCK = disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH)
WHEEL = disc_mask(420, 300, RADII[0], height=HEIGHT, width=WIDTH)


@pytest.fixture
def visitor(visitor: Visitor) -> Visitor:
    """A visitor with two segmented objects, one of them named."""
    visitor.add(("my truck.png", picture(WIDTH, HEIGHT, shade=90)))
    visitor.click(200, 150)
    visitor.until_seen(TRUCK)
    visitor.press("a")
    visitor.click(420, 300)
    visitor.until_seen(TRUCK | disc_mask(420, 300, RADII[2], height=HEIGHT, width=WIDTH))
    visitor.press("3")
    visitor.find("#objects input").nth(1).fill("wheel")
    visitor.find("#objects input").nth(1).press("Enter")
    visitor.until_seen(TRUCK | WHEEL)
    return visitor


def save(visitor: Visitor, kind: str) -> tuple[str, Path]:
    return visitor.download(visitor.find(f"[data-save={kind}]").click)


def test_an_export_says_that_a_mask_has_not_come_yet(visitor: Visitor, server: PageServer) -> None:
    server.segmenter.gate.clear()
    visitor.press("n")
    visitor.click(100, 350)
    _, path = save(visitor, "coco")
    assert len(COCO(str(path)).anns) == 2
    assert visitor.alert().startswith("The last clicks on an object are not exported")
    server.segmenter.gate.set()
    visitor.until(lambda: visitor.find("#objects .figure").nth(2).inner_text() not in ("", "…"))
    visitor.find("#dismiss").click()
    _, path = save(visitor, "coco")
    assert len(COCO(str(path)).anns) == 3
    assert not visitor.find("#alert").is_visible()


def test_after_a_name_the_keys_are_commands_again(visitor: Visitor) -> None:
    name = visitor.find("#objects input").first
    name.fill("hat")
    name.press("Enter")
    visitor.press("n")
    visitor.until(lambda: visitor.find("#objects .selected").count() == 0)
    assert name.input_value() == "hat"


def test_coco_is_read_by_pycocotools(visitor: Visitor, capsys: pytest.CaptureFixture[str]) -> None:
    name, path = save(visitor, "coco")
    assert name == "coco.json"
    coco = COCO(str(path))
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image["file_name"], image["width"], image["height"]) == ("my truck.png", WIDTH, HEIGHT)
    annotations = coco.loadAnns(coco.getAnnIds())
    categories = [coco.loadCats(annotation["category_id"])[0]["name"] for annotation in annotations]
    assert categories == ["object 1", "wheel"]
    for annotation, mask in zip(annotations, (TRUCK, WHEEL), strict=True):
        assert np.array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == coco_mask.toBbox(coco.annToRLE(annotation)).tolist()


def test_coco_has_all_that_its_readers_ask_for(visitor: Visitor, capsys: pytest.CaptureFixture[str]) -> None:
    _, path = save(visitor, "coco")
    coco = COCO(str(path))
    coco.info()
    assert "description: Made with SAM 2" in capsys.readouterr().out
    assert coco.getCatIds(supNms=[""]) == [1, 2]
    results = [
        {"image_id": one["image_id"], "category_id": 1, "segmentation": one["segmentation"], "score": 0.5}
        for one in coco.anns.values()
    ]
    assert len(coco.loadRes(results).anns) == 2
    assert set(coco.dataset) == {"info", "licenses", "images", "annotations", "categories"}
    (image,) = coco.imgs.values()
    assert image["license"] in [one["id"] for one in coco.dataset["licenses"]]
    assert {"date_captured", "coco_url", "flickr_url"} <= set(image)


def test_pictures_of_one_name_have_names_of_their_own(visitor: Visitor) -> None:
    """As from two folders. Both had one file_name, so a reader of the file took one picture for the other."""
    script = """async (names) => {
      const { coco, polygons } = await import("./page/export.js");
      const pictures = names.map((name) => ({ name, width: 4, height: 3, objects: [] }));
      return Promise.all([coco(pictures), polygons(pictures)].map(async (blob) => JSON.parse(await blob.text())));
    }"""
    coco, polygons = visitor.page.evaluate(
        script, ["a b.png", "a b.png", "a b-2.png", "cat", "cat", "A B.png"]
    )
    expected = ["a b.png", "a b-3.png", "a b-2.png", "cat", "cat-2", "A B.png"]
    assert [image["file_name"] for image in coco["images"]] == expected
    assert [image["file_name"] for image in polygons] == expected


def test_names_keep_the_signs_of_their_scripts(visitor: Visitor) -> None:
    """Vowels of Hindi and Thai are marks on letters. Each became a dash."""
    pictures = [["चित्र.jpg", "कुत्ता"], ["รูป.jpg", "หมู"]]
    data = base64.b64decode(visitor.page.evaluate(_ZIPPED, ["masks", pictures]))
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert names == ["चित्र-कुत्ता.png", "รูป-หมู.png"]


def test_yolo_is_pictures_labels_and_their_names(visitor: Visitor) -> None:
    name, path = save(visitor, "yolo")
    assert name == "yolo.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        data = yaml.safe_load(archive.read("data.yaml"))
        assert data == {"train": "images/train", "val": "images/train", "names": {0: "object 1", 1: "wheel"}}
        assert archive.read("images/train/my-truck.png") == picture(WIDTH, HEIGHT, shade=90)
        lines = archive.read("labels/train/my-truck.txt").decode().splitlines()
    for number, (line, mask) in enumerate(zip(lines, (TRUCK, WHEEL), strict=True)):
        first, *numbers = line.split()
        assert int(first) == number
        points = np.array(numbers, float).reshape(-1, 2)
        assert points.min() >= 0
        assert points.max() <= 1
        assert beyond(rasterised([points * (WIDTH, HEIGHT)], (HEIGHT, WIDTH)), mask, reach=1) == 0


def test_masks_are_png_files_in_a_zip(visitor: Visitor) -> None:
    name, path = save(visitor, "masks")
    assert name == "masks.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["my-truck-object-1.png", "my-truck-wheel.png"]
        for file, mask in zip(archive.namelist(), (TRUCK, WHEEL), strict=True):
            image = Image.open(io.BytesIO(archive.read(file)))
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), mask * np.uint8(255))


def test_one_mask_is_one_png(visitor: Visitor) -> None:
    visitor.find("[aria-label='Delete object 1']").click()
    name, path = save(visitor, "masks")
    assert name == "my-truck-wheel.png"
    assert np.array_equal(np.asarray(Image.open(path)), WHEEL * np.uint8(255))


def test_polygons_are_the_masks(visitor: Visitor) -> None:
    name, path = save(visitor, "polygons")
    assert name == "polygons.json"
    ((truck, wheel),) = [entry["objects"] for entry in json.loads(path.read_text())]
    assert [truck["name"], wheel["name"]] == ["object 1", "wheel"]
    for drawn, mask in ((truck, TRUCK), (wheel, WHEEL)):
        (ring,) = drawn["polygons"]
        assert drawn["holes"] == []
        assert 8 < len(ring) < 120, "slopes are not stairs"
        (rle,) = coco_mask.frPyObjects([np.array(ring).ravel().tolist()], HEIGHT, WIDTH)
        assert coco_mask.iou([rle], [coco_mask.encode(np.asfortranarray(mask))], [False])[0, 0] > 0.98


def test_holes_stand_apart_from_outer_rings(visitor: Visitor) -> None:
    outline = visitor.page.evaluate(
        """async () => {
          const { outline } = await import("./client/outline.js");
          const bitmap = Uint8Array.from({ length: 400 }, (_, at) => {
            const [x, y] = [at % 20, Math.floor(at / 20)];
            return x > 2 && x < 15 && y > 2 && y < 15 && !(x > 5 && x < 10 && y > 5 && y < 10) || x > 16 && y > 16;
          });
          return outline(bitmap, { width: 20, height: 20 });
        }"""
    )
    assert sorted(map(sorted, outline["polygons"])) == [
        [[3, 3], [3, 15], [15, 3], [15, 15]],
        [[17, 17], [17, 20], [20, 17], [20, 20]],
    ]
    assert [sorted(ring) for ring in outline["holes"]] == [[[6, 6], [6, 10], [10, 6], [10, 10]]]


def test_nothing_to_export_is_said(visitor: Visitor) -> None:
    visitor.press("z")
    for name in ("object 1", "wheel"):
        if visitor.find(f"[aria-label='Delete {name}']").count():
            visitor.find(f"[aria-label='Delete {name}']").click()
    visitor.find("#objects li").last.locator("[title=Delete]").click()
    visitor.find("[data-save=coco]").click()
    visitor.until(lambda: "nothing to export" in visitor.alert())


_OUTLINES = """async (masks) => {
  const { joined, outline } = await import("./client/outline.js");
  return masks.map(({ pixels, width, height }) => {
    const found = outline(Uint8Array.from(pixels), { width, height });
    const rings = [...found.polygons, ...found.holes];
    return { ...found, joined: rings.length ? joined(rings) : [] };
  });
}"""


def test_polygons_of_all_masks_are_the_masks(visitor: Visitor) -> None:
    """Also joined to one ring, as YOLO's labels have it."""
    masks = {**HARD, **{f"random {seed}": ragged(seed) for seed in range(150)}}
    sent = [
        {"pixels": mask.ravel().astype(int).tolist(), "height": mask.shape[0], "width": mask.shape[1]}
        for mask in masks.values()
    ]
    for (name, mask), found in zip(masks.items(), visitor.page.evaluate(_OUTLINES, sent), strict=True):
        rings = found["polygons"] + found["holes"]
        assert_proper(rings)
        drawn = rasterised(rings, mask.shape)
        assert beyond(drawn, mask, reach=1) == 0, name
        if rings:
            assert_proper([found["joined"]])
            assert np.array_equal(rasterised([found["joined"]], mask.shape), drawn), name


_ZIPPED = """async ([kind, pictures]) => {
  const exports = await import("./page/export.js");
  const counts = String.fromCharCode(48, 49, 51); // runs 0, 1, 3: one of 2 x 2 pixels is on the object
  const object = (name) => ({ name, chosen: 0, masks: [{ counts, area: 1, bbox: [0, 0, 1, 1], iou: 1 }] });
  const type = (name) => (name.endsWith(".jfif") ? "image/jpeg" : "");
  const { blob } = await exports[kind](pictures.map(([name, ...names]) =>
    ({ name, width: 2, height: 2, file: new Blob([name], { type: type(name) }), objects: names.map(object) })));
  return btoa(String.fromCharCode(...new Uint8Array(await blob.arrayBuffer())));
}"""


def test_yolo_reads_no_jfif(visitor: Visitor) -> None:
    """Windows calls JPEG files so, and Ultralytics passes over them without a word."""
    data = base64.b64decode(visitor.page.evaluate(_ZIPPED, ["yolo", [["a.jfif", "dog"], ["b.webp", "dog"]]]))
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert [name for name in names if name.startswith("images")] == [
        "images/train/a.jpg",
        "images/train/b.webp",
    ]


@pytest.mark.parametrize("kind", ["masks", "yolo"])
@pytest.mark.parametrize(
    "pictures",
    [
        [["a.jpg", "dog", "dog", "dog 2", "dog-2", "dog-2-2"]],
        [["a.jpg", "Dog", "dog", "DOG"], ["A.JPG", "dog"], ["a.png", "dog"]],
        [["a.jpg", "caf\u00e9", "cafe\u0301", "Stra\u00dfe", "STRASSE"]],
        [["a.jpg", "b-c"], ["a-b.jpg", "c"], ["a b.jpg", "c"]],
        [["x" * 300 + ".jpg", "dog", "dog"], ["x" * 301 + ".jpg", "dog"]],
    ],
)  # fmt: skip
def test_no_two_files_have_one_name(visitor: Visitor, kind: str, pictures: list[list[str]]) -> None:
    data = base64.b64decode(visitor.page.evaluate(_ZIPPED, [kind, pictures]))
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    folded = {unicodedata.normalize("NFC", name).upper().casefold() for name in names}
    assert len(folded) == len(names)
    assert all(len(Path(name).name.encode()) <= 255 for name in names)
    objects = sum(len(picture) - 1 for picture in pictures)
    assert len(names) == (objects if kind == "masks" else 2 * len(pictures) + 1)
    if kind == "yolo":
        images = {Path(name).stem for name in names if name.startswith("images/")}
        assert images == {Path(name).stem for name in names if name.startswith("labels/")}


_EMPTY = """async (kind) => {
  const exports = await import("./page/export.js");
  const masks = (counts, area) => [{ counts, area, bbox: [0, 0, area, area], iou: 1 }];
  const object = (...mask) => ({ name: "dog", chosen: 0, masks: masks(...mask) });
  const objects = [object("4", 0), object(String.fromCharCode(48, 49, 51), 1)];
  return JSON.parse(await exports[kind]([{ name: "a.jpg", width: 2, height: 2, objects }]).text());
}"""


def test_an_object_without_a_pixel_is_not_exported(visitor: Visitor) -> None:
    assert len(visitor.page.evaluate(_EMPTY, "coco")["annotations"]) == 1
    ((drawn,),) = [entry["objects"] for entry in visitor.page.evaluate(_EMPTY, "polygons")]
    assert len(drawn["polygons"]) == 1
