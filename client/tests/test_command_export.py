"""`sam2 export`: writes replies and prompts as a COCO data set that pycocotools loads, as RLE or polygons."""

import json
import os
from pathlib import Path

import httpx
import numpy as np
import pytest
from client_server import Served
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sam2_client import rle
from sam2_client.command import main
from tests.fakes import RADII, disc_mask, picture

OCTETS = {"Content-Type": "application/octet-stream"}
pytestmark = pytest.mark.usefixtures("commanded")


def test_export_joins_replies_to_what_pycocotools_loads(
    truck: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replies = Path("replies")
    replies.mkdir()
    for name, file, label, point in [
        ("1", "truck.png", "truck", "30,20"),
        ("2", "truck.png", "wheel", "10,20"),
        ("3", "photos/b.PNG", "truck", "40,20"),
    ]:
        decode = ["decode", file, "--point", point, "--label", label]
        assert main([*decode, "-o", f"replies/{name}.json"]) == 0
    (replies / "settings.json").write_text("[1]")
    (replies / "half.json").write_text('{"pred')
    (replies / "deep.json").write_text("[" * 100_000)
    capsys.readouterr()
    assert main(["export", "replies", "--coco", "replies/out.json"]) == 0
    printed = capsys.readouterr()
    assert "3 annotations" in printed.out
    assert (
        printed.err
        == "sam2: left out replies/deep.json, replies/half.json, replies/settings.json: they are not replies of "
        "/decode\n"
    )
    assert main(["export", "replies/deep.json", "replies/1.json", "--coco", "one.json"]) == 1
    assert "deep.json is not a reply of /decode" in capsys.readouterr().err
    assert len(COCO("one.json").anns) == 1
    assert main(["export", "replies/*.json", "--coco", "replies/out.json"]) == 0, "overwrites its own output"
    data = COCO("replies/out.json")
    assert {image["file_name"] for image in data.imgs.values()} == {"truck.png", "photos/b.PNG"}
    assert {category["name"] for category in data.cats.values()} == {"truck", "wheel"}
    for annotation in data.anns.values():
        image = data.imgs[annotation["image_id"]]
        mask = data.annToMask(annotation)
        assert mask.shape == (image["height"], image["width"])
        assert mask.sum() == annotation["area"]
        assert annotation["bbox"] == coco_mask.toBbox(data.annToRLE(annotation)).tolist()
        assert 0 < annotation["score"] <= 1
    truck_id = next(number for number, image in data.imgs.items() if image["file_name"] == "truck.png")
    assert len(data.getAnnIds(imgIds=[truck_id])) == 2


def test_the_data_set_has_all_that_its_readers_ask_for(
    truck: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, label in (("1", "truck"), ("2", "wheel")):
        assert main(["decode", "truck.png", "--point", "30,20", "--label", label, "-o", f"{name}.json"]) == 0
    for options in ([], ["--polygons"], ["--polygons", "--simplify", "1"]):
        assert main(["export", "1.json", "2.json", "--coco", "out.json", *options]) == 0
        data = COCO("out.json")
        assert set(data.dataset) == {"info", "licenses", "images", "annotations", "categories"}
        capsys.readouterr()
        data.info()
        assert "description: Made with SAM 2" in capsys.readouterr().out
        assert data.getCatIds(supNms=[""]) == [1, 2]
        results = [
            {"image_id": 1, "category_id": 2, "segmentation": data.annToRLE(one), "score": 0.5}
            for one in data.anns.values()
        ]
        assert len(data.loadRes(results).anns) == 2
        (image,) = data.imgs.values()
        asked = {"id", "file_name", "width", "height", "license", "date_captured", "coco_url", "flickr_url"}
        assert set(image) == asked
        assert image["license"] in [one["id"] for one in data.dataset["licenses"]]
        for annotation in data.anns.values():
            asked = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd", "score"}
            assert set(annotation) == asked
            assert annotation["iscrowd"] == 0
            assert annotation["area"] > 0
            assert min(annotation["bbox"][2:]) >= 1


def test_export_decodes_prompts_in_json_lines(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"picture": "a.png", "label": "left", "point_coords": [[15, 20]], "point_labels": [1]},
        {"picture": "more/c.png", "box": [10, 10, 30, 30]},
        {"picture": "a.png", "label": "right", "point_coords": [[45, 20]], "multimask_output": False},
        {"picture": "nowhere.png", "box": [10, 10, 30, 30]},
        {"picture": "b.PNG", "box": [30, 10, 10, 30]},
        {"picture": "a.png", "box": [30, 10, 1e9, 30]},
        {"picture": "a.png", "point_coords": [[1, 2]] * 257},
    ]
    (photos / "prompts.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    assert main(["export", "photos/prompts.jsonl", "--coco", "out.json"]) == 1
    printed = capsys.readouterr()
    assert "photos/nowhere.png: No such file or directory" in printed.err
    for number, what in ((9, "box [30.0"), (11, "box corner (1e+09, 30)"), (13, "point_coords: List")):
        assert f"photos/prompts.jsonl, line {number}: {what}" in printed.err, "the others are decoded"
    data = COCO("out.json")
    assert [image["file_name"] for image in data.imgs.values()] == ["a.png", "more/c.png"]
    masks = {data.cats[a["category_id"]]["name"]: data.annToMask(a) for a in data.anns.values()}
    assert np.array_equal(masks["left"], disc_mask(15, 20, RADII[2], height=40, width=60))
    assert np.array_equal(masks["right"], disc_mask(45, 20, RADII[1], height=40, width=60))
    assert np.array_equal(masks["object"], disc_mask(20, 20, RADII[1], height=40, width=62))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "line 1: Expecting"),
        ("[" * 100_000, "line 1: maximum recursion depth"),
        ('{"box": [1, 2, 3, 4]}', "line 1: it has no picture"),
        ('{"picture": "a.png", "bbox": [1, 2, 3, 4]}', "line 1: unknown fields: bbox."),
    ],
)
def test_export_says_which_line_is_wrong(capsys: pytest.CaptureFixture[str], line: str, what: str) -> None:
    Path("prompts.jsonl").write_text(line)
    assert main(["export", "prompts.jsonl", "--coco", "out.json"]) == 1
    error = capsys.readouterr().err
    assert what in error
    assert "nothing to export" in error
    assert not Path("out.json").exists()


def test_export_cleans_what_it_decodes_and_nothing_else(
    served: Served, truck: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"picture": "truck.png", "point_coords": [[30, 20]], "point_labels": [1]}
    Path("prompts.jsonl").write_text(json.dumps(line))
    assert main(["decode", "truck.png", "--point", "30,20", "-o", "reply.json"]) == 0
    clean_up = ["--coco", "out.json", "--max-hole-area", "9999"]
    assert main(["export", "prompts.jsonl", *clean_up]) == 0
    (annotation,) = COCO("out.json").anns.values()
    assert annotation["area"] == 60 * 40
    assert main(["export", "reply.json", *clean_up]) == 2
    assert "masks of replies are not changed" in capsys.readouterr().err


def test_export_writes_polygons(truck: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ring = np.zeros((40, 60), bool)
    ring[5:35, 5:35] = True
    ring[15:25, 15:25] = False
    ring[10:12, 40:50] = True
    reply = {
        "image_id": "truck", "width": 60, "height": 40,
        "predictions": [{"masks": [
            {"rle": rle.encode(ring), "iou": 0.9, "stability": 0.9, "area": int(ring.sum()), "bbox": [5, 5, 45, 30]}
        ]}],
    }  # fmt: skip
    Path("ring.json").write_text(json.dumps(reply))
    assert main(["decode", "truck.png", "--point", "30,20", "-o", "disc.json"]) == 0
    assert main(["export", "disc.json", "ring.json", "--coco", "exact.json", "--polygons"]) == 0
    exact = COCO("exact.json")
    disc, framed = exact.anns.values()
    assert disc["area"] == disc_mask(30, 20, RADII[2], height=40, width=60).sum()
    frame, block = framed["segmentation"]
    assert block == [40, 10, 50, 10, 50, 12, 40, 12]
    hole = [15, 15, 15, 25, 25, 25, 25, 15, 15, 15]
    assert frame == [5, 5, *hole, 5, 5, 35, 5, 35, 35, 5, 35], "a line leads to the hole and back"
    assert (framed["area"], framed["bbox"]) == (ring.sum(), [5, 5, 45, 30])
    assert np.array_equal(exact.annToMask(framed), ring)

    assert main(["export", "disc.json", "--coco", "few.json", "--polygons", "--simplify", "1"]) == 0
    (simple,) = COCO("few.json").anns.values()
    assert 6 <= len(simple["segmentation"][0]) < len(disc["segmentation"][0]) / 2
    both = [coco_mask.encode(np.asfortranarray(exact.annToMask(annotation))) for annotation in (disc, simple)]
    assert coco_mask.iou(both[:1], both[1:], [0])[0][0] > 0.85


@pytest.mark.parametrize(
    "options", [{}, {"bounds": True}, {"bounds": True, "mask_format": "rle_uncompressed"}]
)
def test_export_takes_what_curl_saved_and_puts_crops_into_their_places(
    served: Served, truck: Path, options: dict[str, object]
) -> None:
    request = {"point_coords": [[40, 15]], "point_labels": [1], **options}
    with httpx.Client(base_url=served.url) as curl:
        image_id = curl.post("/embed", content=truck.read_bytes(), headers=OCTETS).json()["image_id"]
        reply = curl.post("/decode", json={"image_id": image_id, **request})
    Path("reply.json").write_text(reply.text)
    assert main(["export", "reply.json", "--coco", "out.json"]) == 0
    data = COCO("out.json")
    (annotation,) = data.anns.values()
    wanted = disc_mask(40, 15, RADII[2], height=40, width=60)
    assert np.array_equal(data.annToMask(annotation), wanted)
    assert np.array_equal(coco_mask.decode(annotation["segmentation"]), wanted)


@pytest.mark.parametrize("mask_format", ["polygons", "png"])
def test_export_says_which_masks_it_does_not_read(
    served: Served, truck: Path, capsys: pytest.CaptureFixture[str], mask_format: str
) -> None:
    """It said KeyError('rle')."""
    request = {"point_coords": [[40, 15]], "point_labels": [1], "mask_format": mask_format}
    with httpx.Client(base_url=served.url) as curl:
        image_id = curl.post("/embed", content=truck.read_bytes(), headers=OCTETS).json()["image_id"]
        reply = curl.post("/decode", json={"image_id": image_id, **request})
    Path("reply.json").write_text(reply.text)
    assert main(["export", "reply.json", "--coco", "out.json"]) == 1
    error = capsys.readouterr().err
    assert f"a mask of mask_format {mask_format}: request rle or rle_uncompressed" in error


def test_export_tells_two_pictures_of_one_name_apart(truck: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        assert main(["decode", "truck.png", "--point", "30,20", "-o", f"{number}.json"]) == 0
        truck.write_bytes(picture(70, 40))
    capsys.readouterr()
    assert main(["export", "1.json", "2.json", "--coco", "out.json"]) == 1
    assert "truck.png is 60 x 40 in one reply and 70 x 40" in capsys.readouterr().err


def test_export_tells_two_pictures_of_one_name_and_size_apart(
    truck: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As 1.jpg of two folders: their masks became those of one picture."""
    line = {"picture": "1.png", "point_coords": [[30, 20]], "point_labels": [1]}
    for folder, shade in (("a", 0), ("b", 9), ("c", 9)):
        Path(folder).mkdir()
        Path(folder, "1.png").write_bytes(picture(60, 40, shade=shade))
        Path(folder, "p.jsonl").write_text(json.dumps(line))
        os.chdir(folder)
        assert main(["decode", "1.png", "--point", "30,20", "-o", "reply.json"]) == 0
        os.chdir("..")
    for kind in ("p.jsonl", "reply.json"):
        for option in (["--coco", "out.json"], ["--yolo", "yolo"]):
            assert main(["export", f"a/{kind}", f"b/{kind}", *option]) == 1
            assert "1.png is one picture here and another there" in capsys.readouterr().err
        assert main(["export", f"b/{kind}", f"c/{kind}", "--coco", "out.json"]) == 0, "copies of one picture"
    assert not Path("yolo").exists()


def test_export_says_that_one_picture_has_several_names(
    truck: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of the images would have a part of the objects, and YOLO take the others for background."""
    Path("more").mkdir()
    Path("more/prompts.jsonl").write_text('{"picture": "../truck.png", "box": [20, 10, 40, 30]}\n')
    for name in ("truck.png", str(truck.resolve())):
        assert main(["decode", name, "--point", "30,20", "-o", f"{len(name)}.json"]) == 0
    capsys.readouterr()
    assert main(["export", "*.json", "more/prompts.jsonl", "--coco", "out.json"]) == 0
    names = [image["file_name"] for image in COCO("out.json").imgs.values()]
    told = f"become several images, none with all objects: {' = '.join(names)}\n"
    assert len(names) == 3
    assert told in capsys.readouterr().err


def test_export_refuses_a_file_that_is_named_in_whatever_form(
    truck: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decode", "truck.png", "--point", "30,20", "-o", "1.json"]) == 0
    Path("half.json").write_text('{"pred')
    for name in ("half.json", "./half.json"):
        assert main(["export", "1.json", name, "--coco", "out.json"]) == 1
        assert "half.json is not a reply of /decode" in capsys.readouterr().err


def test_export_leaves_out_empty_masks(truck: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "truck.png", "--point", "30,20", "-o", "full.json"]) == 0
    assert main(["decode", "truck.png", "--point=-60,-40", "-o", "empty.json"]) == 0
    assert main(["export", "full.json", "empty.json", "--coco", "out.json"]) == 0
    printed = capsys.readouterr()
    assert "1 images, 1 annotations" in printed.out
    assert "1 masks are empty" in printed.err


def test_export_waits_for_its_turn_as_often_as_it_is_told_to(truck: Path, served: Served) -> None:
    Path("prompts.jsonl").write_text('{"picture": "truck.png", "box": [0, 0, 60, 40]}')
    embedded = httpx.post(f"{served.url}/embed", content=truck.read_bytes(), headers=OCTETS).content
    slowly = b'{"error": {"code": "rate_limited", "message": "Slowly."}}'
    served.trouble.replies[:] = [(200, {}, embedded), *[(429, {"Retry-After": "0"}, slowly)] * 12]
    assert main(["export", "prompts.jsonl", "--coco", "out.json"]) == 0
    assert len(COCO("out.json").anns) == 1
    assert served.trouble.replies == []


@pytest.mark.parametrize(
    "edit", [{"bbox": [0, 0, 0, 0]}, {"bbox": [1, 2, 3, None]}, {"area": 7}, {"iou": 10**400}]
)
def test_a_reply_that_was_edited_is_refused_in_words(
    truck: Path, edit: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decode", str(truck), "--point", "30,20", "-o", "cap.json"]) == 0
    reply = json.loads(Path("cap.json").read_text())
    best = reply["predictions"][0]["masks"][0]
    best["bbox"], best["area"] = [*map(float, best["bbox"])], float(best["area"])  # as JavaScript's tools may
    Path("floats.json").write_text(json.dumps(reply))
    assert main(["export", "floats.json", "--coco", "out.json", "--yolo", "yolo", "--polygons"]) == 0
    best |= edit
    Path("edited.json").write_text(json.dumps(reply))
    assert main(["export", "edited.json", "--coco", "out.json", "--yolo", "other", "--polygons"]) == 1
    assert "edited.json is not a reply of /decode" in capsys.readouterr().err


def test_the_extent_of_a_mask_is_that_of_its_pixels() -> None:
    random = np.random.default_rng(0)
    for share in [0, 0.1, 0.5, 0.9, 1] * 40:
        mask = random.random(random.integers(1, 9, 2)) < share
        runs = rle.encode(mask)
        area, box = rle.extent(runs)
        assert (area, [*box]) == (mask.sum(), coco_mask.toBbox(runs).tolist())
