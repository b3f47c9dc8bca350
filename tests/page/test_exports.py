"""The files that the page saves, read with the libraries that users read them with."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.fakes import RADII, disc_mask, picture
from tests.page.visitor import HEIGHT, WIDTH, Visitor

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
          const { outline } = await import("./page/outline.js");
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
