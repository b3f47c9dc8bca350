"""`image.everything` against the real service with a fake model: options, progress, crops, and turned pictures."""

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_server import Served
from PIL import Image as Pillow

import sam2_client
from sam2_client import AsyncClient, Client
from sam2_client.masks import Mask
from tests.fakes import RADII, disc_mask, picture
from tests.oriented_files import oriented_files

SOME: dict[str, Any] = {"points_per_side": 4, "stability_score_thresh": 0.5, "pred_iou_thresh": 0.4}
"""Finds the fake's discs around sixteen clicks, but for near duplicates."""
ALL = SOME | {"box_nms_thresh": 1.0, "crop_nms_thresh": 1.0}


def test_each_mask_says_what_it_is_and_what_found_it(client: Client, truck: Path) -> None:
    masks = client.embed(truck).everything(**ALL)
    assert len(masks) == 3 * 16
    assert {mask.point for mask in masks} == {
        (x, y) for x in (7.5, 22.5, 37.5, 52.5) for y in (5, 15, 25, 35)
    }
    for mask in masks:
        radius = RADII[[0.5, 0.9, 1.0].index(round(mask.iou, 3))]
        drawn = disc_mask(*mask.point, radius, height=40, width=60)
        assert np.array_equal(mask.to_numpy(), drawn)
        assert (mask.area, mask.crop_box, 0 < mask.stability < 1) == (drawn.sum(), (0, 0, 60, 40), True)
        x, y, width, height = mask.bbox
        assert drawn[y : y + height, x : x + width].sum() == mask.area
        assert mask.crop().sum() == mask.area
        assert np.array_equal(Mask.from_dict(mask.to_dict()).to_numpy(), drawn)
        assert mask.to_dict()["crop"] == [0, 0, 60, 40]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"points": np.array([[0.5, 0.5]])}, {"points": [(30, 20)], "count": 3}),
        ({"points": [(0.25, 0.75)], "multimask_output": False}, {"points": [(15, 30)], "count": 1}),
        (
            {"region": (30, 20, 60, 40), "points_per_side": np.int64(1)},
            {"points": [(45, 30)], "count": 3},
        ),
        ({"points": [(0.5, 0.5)], "pred_iou_thresh": 0.95}, {"points": [(30, 20)], "count": 1}),
        ({"points": [(0.5, 0.5)], "stability_score_offset": 40}, {"points": [], "count": 0}),
        ({"points": [(0.5, 0.5)], "mask_threshold": 20.0}, {"points": [(30, 20)], "count": 1}),
        ({"points_per_side": 2, "max_masks": 2, "box_nms_thresh": 1}, {"count": 2}),
        ({"points": [(0.5, 0.5)], "min_mask_region_area": 3, "use_m2m": True}, {"points": [(30, 20)]}),
    ],
    ids=lambda value: " ".join(value),
)
def test_every_option_reaches_the_server(
    client: Client, truck: Path, options: dict[str, Any], what: dict[str, Any]
) -> None:
    asked = {name: value for name, value in ALL.items() if name != "points_per_side"} | options
    masks = client.embed(truck).everything(**asked)
    if "count" in what:
        assert len(masks) == what["count"]
    if "points" in what:
        assert sorted({mask.point for mask in masks}) == what["points"]


def test_the_order_is_the_one_asked_for(client: Client, truck: Path) -> None:
    image = client.embed(truck)
    best, largest = (image.everything(**SOME, order=order) for order in ("iou", "area"))
    assert [mask.iou for mask in best] == sorted((mask.iou for mask in best), reverse=True)
    assert [mask.area for mask in largest] == sorted((mask.area for mask in largest), reverse=True)


def test_a_found_mask_is_refined_by_its_logits_or_its_rle(
    client: Client, served: Served, truck: Path
) -> None:
    image = client.embed(truck)
    for logits in (True, False):
        mask = image.everything(points=[(0.5, 0.5)], **{**ALL, "points_per_side": None}, logits=logits)[0]
        assert (mask.logits is not None) == logits
        before = served.trouble.asked.count("POST /decode")
        (refined,) = image.decode(mask=mask)
        assert refined.area > 0
        assert served.trouble.asked.count("POST /decode") == before + 1, "no other request is needed"


def test_steps_are_told_to_a_function(client: Client, truck: Path) -> None:
    steps: list[tuple[float, int]] = []
    masks = client.embed(truck).everything(
        **SOME, progress=lambda fraction, found: steps.append((fraction, found))
    )
    assert steps
    assert all(0 <= fraction <= 1 and found >= 0 for fraction, found in steps)
    assert [fraction for fraction, _ in steps] == sorted(fraction for fraction, _ in steps)
    assert masks


def test_what_the_function_raises_ends_the_call(client: Client, served: Served, truck: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(fraction: float, found: int) -> None:
        raise EnoughError

    image = client.embed(truck)
    before = len(served.trouble.asked)
    with pytest.raises(EnoughError):
        image.everything(**SOME, progress=stop)
    assert len(served.trouble.asked) == before + 1
    assert image.everything(**SOME), "the client goes on"


def test_a_bar_is_shown_only_when_asked_for(
    client: Client, truck: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = client.embed(truck)
    image.everything(**SOME)
    assert capsys.readouterr().err == ""
    image.everything(**SOME, progress=True)
    assert "found=" in capsys.readouterr().err


def test_an_evicted_picture_is_embedded_again(client: Client, served: Served, truck: Path) -> None:
    image = client.embed(truck)
    client.delete(image.image_id)
    assert image.everything(**SOME)
    assert served.trouble.asked[-3:] == ["POST /everything", "POST /embed", "POST /everything"]


def test_crops_are_looked_at_and_the_picture_is_sent_for_them(client: Client, served: Served) -> None:
    data = picture(600, 400)
    image = client.embed(data, "spots")
    masks = image.everything(**SOME, crop_n_layers=1, crop_n_points_downscale_factor=2)
    assert len({mask.crop_box for mask in masks}) > 1
    assert all(mask.rle["size"] == [400, 600] for mask in masks)
    assert served.trouble.headers["content-type"].startswith("multipart/form-data")
    with pytest.raises(sam2_client.InvalidPrompt, match="crop_n_layers: crops are cut from the picture"):
        client.image("spots").everything(crop_n_layers=1)


def test_crops_of_a_deep_picture_are_read_as_the_picture_was(client: Client) -> None:
    deep = np.linspace(0, 60_000, 600 * 400).reshape(400, 600).astype(np.uint16)
    image = client.embed(deep, stretch="percentile")
    assert image.everything(**SOME, crop_n_layers=1, crop_n_points_downscale_factor=4)
    assert image.image_id in {each.image_id for each in client.images()}


@pytest.mark.parametrize("name", ["JPEG 6", "JPEG 8", "PNG 3"])
def test_coordinates_are_those_of_the_picture_as_shown(client: Client, name: str) -> None:
    data = oriented_files()[name].data
    image = client.embed(data)
    stored = Pillow.open(io.BytesIO(data)).size
    if name.startswith("JPEG"):
        assert (image.width, image.height) == stored[::-1]
    point = (0.25, 0.75)
    mask = image.everything(points=[point], **{**ALL, "points_per_side": None})[0]
    assert mask.point == (point[0] * image.width, point[1] * image.height)
    assert mask.rle["size"] == [image.height, image.width]
    assert mask.to_numpy()[int(mask.point[1]), int(mask.point[0])]
    mask.overlay(data)
    whole = image.everything(region=(0, 0, image.width, image.height), **{**ALL, "points_per_side": 1})
    assert whole[0].point == (image.width / 2, image.height / 2)


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"points": [1, 2]}, ValueError, r"points is \[1, 2\], but must be a list of \(x, y\) in 0..1"),
        ({"points": [("a", "b")]}, ValueError, "points cannot be read"),
        ({"region": [0, 0, 1]}, ValueError, "region is"),
        ({"region": [0, 0, 1, float("nan")]}, ValueError, "region has a value that is not finite"),
        ({"points_per_side": 3.5}, TypeError, "points_per_side is 3.5, but must be a whole number"),
        ({"max_masks": True}, TypeError, "max_masks is True"),
        ({"pred_iou_thresh": "0.8"}, TypeError, "pred_iou_thresh is '0.8', but must be a number"),
        ({"mask_threshold": float("inf")}, ValueError, "mask_threshold is inf, but must be finite"),
        ({"use_m2m": 1}, TypeError, "use_m2m is 1, but must be True, False or None"),
        ({"order": "best"}, ValueError, "order is 'best', but must be one of iou, area"),
        ({"points_per_side": 0}, sam2_client.ValidationFailed, "points_per_side"),
        ({"points_per_side": 4, "points": [(0.5, 0.5)]}, sam2_client.ValidationFailed, "give one of them"),
        ({"region": (5, 5, 1, 1)}, sam2_client.Sam2Error, "region"),
    ],
)
def test_wrong_options_are_explained(
    client: Client, truck: Path, options: dict[str, Any], error: type[Exception], what: str
) -> None:
    image = client.embed(truck)
    with pytest.raises(error, match=what):
        image.everything(**options)


async def test_the_async_client_does_the_same(served: Served, client: Client, truck: Path) -> None:
    steps: list[float] = []
    async with AsyncClient(served.url) as waiting:
        image = await waiting.embed(truck)
        masks = await image.everything(**SOME, progress=lambda fraction, found: steps.append(fraction))
        crops = await image.everything(
            **SOME, crop_n_layers=1, crop_n_points_downscale_factor=4, crop_overlap_ratio=0.1
        )
    assert steps
    assert [mask.to_dict() for mask in masks] == [
        mask.to_dict() for mask in client.embed(truck).everything(**SOME)
    ]
    assert crops


def test_threads_may_share_a_client(client: Client, truck: Path) -> None:
    image = client.embed(truck)
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(len(image.everything(**SOME)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 3
    assert len(set(counts)) == 1
