"""X-AnyLabeling's Remote-Server model, with requests as its class RemoteServer sends them."""

import threading
from base64 import b64encode
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from app.codecs.answers import MaskAnswer
from app.doors import x_anylabeling
from app.settings import Settings
from model.masks.outlines import Outline
from model.masks.runs import Ring, Runs
from tests.fakes import SINGLE_IOU, Served, disc_mask, picture, serving

pytestmark = pytest.mark.usefixtures("either_service")

KEYS = "anna:anna-0123456789abcdef,bert:bert-0123456789abcdef"
DATA_URL = "data:image/png;base64," + b64encode(picture()).decode()


def point(x: float, y: float, label: int = 1) -> dict[str, object]:
    return {"type": "point", "data": [x, y], "label": label}


def rectangle(*data: float) -> dict[str, object]:
    return {"type": "rectangle", "data": list(data), "label": 1}


def body(*marks: dict[str, object], **params: object) -> dict[str, Any]:
    fixed = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001, "filter_classes": []}
    return {"model": "fake", "image": DATA_URL, "params": {**fixed, "marks": list(marks), **params}}


async def shapes(served: Served, *marks: dict[str, object], **params: object) -> list[dict[str, Any]]:
    reply = await served.post("/v1/predict", body(*marks, **params))
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert answer["success"] is True
    assert {name: answer["data"][name] for name in ("description", "replace")} == {
        "description": "",
        "replace": False,
    }
    found: list[dict[str, Any]] = answer["data"]["shapes"]
    for shape in found:
        assert shape["label"] == "AUTOLABEL_OBJECT"
        assert shape["shape_type"] == "polygon"
        assert len(shape["points"]) >= 3
        assert shape["points"][0] != shape["points"][-1]
    return found


def drawn(shape: dict[str, Any]) -> np.ndarray:
    """The mask (40, 60) of a shape; pixels belong to it if their centre lies inside."""
    image = Image.new("1", (600, 400))
    ImageDraw.Draw(image).polygon([(10 * x, 10 * y) for x, y in shape["points"]], fill=1)
    return np.asarray(image)[5::10, 5::10]


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


async def test_a_click_is_answered_with_the_best_mask_as_a_polygon() -> None:
    async with serving() as served:
        (shape,) = await shapes(served, point(30, 20))
        assert shape["score"] == 1.0  # the best of three: 1.25, kept within 0..1
        assert agreement(drawn(shape), disc_mask(30, 20, 9.0, height=40, width=60)) > 0.9
        (shape,) = await shapes(served, point(30, 20), point(5, 5, label=0))
        assert shape["score"] == SINGLE_IOU
        assert agreement(drawn(shape), disc_mask(30, 20, 6.0, height=40, width=60)) > 0.9
        assert len(served.segmenter.encoded) == 1
        (prompt,) = served.segmenter.decoded[-1]
        assert (prompt.points, prompt.labels) == (((30, 20), (5, 5)), (1, 0))
        assert await shapes(served, point(5, 5, label=0)) == []  # nothing to take it from


async def test_a_rectangle_may_begin_at_any_corner() -> None:
    async with serving() as served:
        for data in ((10, 5, 40, 35), (40, 35, 10, 5), (40, 5, 10, 35), (10, 35, 40, 5)):
            await shapes(served, rectangle(*data))
            (prompt,) = served.segmenter.decoded[-1]
            assert prompt.box == (10, 5, 40, 35)


async def test_several_rectangles_are_an_object_each_with_the_points_that_are_theirs() -> None:
    async with serving() as served:
        marks = (
            rectangle(20, 20, 2, 2),
            point(10, 10),
            rectangle(30, 10, 58, 38),
            point(40, 20, label=0),
            point(26, 12, label=0),  # in neither; the second one is nearer
            rectangle(36, 16, 44, 24),
        )
        found = await shapes(served, *marks)
        assert len(found) == 3
        prompts = {prompt.box: prompt for batch in served.segmenter.decoded for prompt in batch}
        assert {box: (prompt.points, prompt.labels) for box, prompt in prompts.items()} == {
            (2, 2, 20, 20): (((10, 10),), (1,)),
            (30, 10, 58, 38): (((26, 12),), (0,)),
            (36, 16, 44, 24): (((40, 20),), (0,)),
        }


async def test_many_marks_do_not_hold_up_other_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points are compared with rectangles: not on the event loop, and not for more than a request may have."""
    compared: list[threading.Thread] = []
    nearest = x_anylabeling._owner

    def owner(*arguments: Any) -> int:
        compared.append(threading.current_thread())
        return nearest(*arguments)

    monkeypatch.setattr(x_anylabeling, "_owner", owner)
    async with serving(Settings(workers=2, max_prompts=20)) as served:
        boxes = [rectangle(n, n, n + 9, n + 9) for n in range(21)]
        reply = await served.post("/v1/predict", body(*boxes, *[point(5, 5)] * 99))
        assert reply.json()["error"]["message"].startswith("21 prompts in one request; the limit is 20")
        assert not compared
        await shapes(served, *boxes[1:], *[point(5, 5)] * 99)
        assert len(compared) == 99
        assert threading.current_thread() not in compared


async def test_fineness_thins_the_outline() -> None:
    async with serving() as served:
        fine, usual, coarse = [
            len((await shapes(served, point(30, 20), epsilon_factor=factor))[0]["points"])
            for factor in (0, 0.001, 0.01)
        ]
        assert fine > usual > coarse


async def test_without_marks_there_are_no_shapes_and_nothing_is_embedded() -> None:
    async with serving() as served:
        assert await shapes(served) == []
        for params in ({}, {"marks": None}):
            reply = await served.post("/v1/predict", {"model": "fake", "image": DATA_URL, "params": params})
            assert reply.json()["data"]["shapes"] == []
        assert served.segmenter.encoded == []


def test_specks_and_rings_within_rings_are_no_objects() -> None:
    def square(x: float, y: float, side: float) -> Ring:
        return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])

    mask = MaskAnswer(
        iou=0.5,
        stability=1.0,
        area=1,
        bbox=(0, 0, 1, 1),
        size=(400, 400),
        runs=Runs(400, 400, np.array([160_000])),
        outline=Outline(
            [square(0, 0, 100), square(40, 40, 20), square(200, 0, 50), square(300, 300, 9)],
            [square(30, 30, 40)],
        ),
    )
    found = x_anylabeling._objects(mask, fraction=0.001)
    assert [shape["points"][0] for shape in found] == [[0, 0], [200, 0]]
    empty = replace(mask, area=0, bbox=(0, 0, 0, 0), outline=Outline([], []))
    assert x_anylabeling._objects(empty, fraction=0.001) == []


@pytest.mark.parametrize(
    ("request_body", "status", "code", "message"),
    [
        (body(rectangle(3, 4, 3, 9)), 422, "invalid_prompt", "is empty"),
        (body(rectangle(3, 4, 5)), 422, "validation_error", "a rectangle has 4 numbers, not 3"),
        (body(point(3, 4) | {"data": [3]}), 422, "validation_error", "a point has 2 numbers, not 1"),
        (body(point(3, 4) | {"type": "polygon"}), 422, "validation_error", "type"),
        (body(point(3, 4, label=2)), 422, "validation_error", "label"),
        (body(rectangle(3, 4, 5, 6) | {"label": 0}), 422, "validation_error", "rectangle has label 1"),
        (body(point(900, 4)), 422, "invalid_prompt", "outside"),
        (
            body(point(1e200, 4), rectangle(3, 4, 5, 6), rectangle(1, 1, 9, 9)),
            422,
            "invalid_prompt",
            "outside",
        ),
        (body(point(3, 4), epsilon_factor=-1), 422, "validation_error", "epsilon_factor"),
        (body(point(3, 4)) | {"model": "sam3"}, 422, "validation_error", "'fake' is"),
        (body(point(3, 4)) | {"image": "aGVsbG8="}, 422, "invalid_image", "not a picture"),
        (body(point(3, 4)) | {"image": "&"}, 422, "validation_error", "image: it is not base64"),
        (body(text_prompt="dog"), 501, "not_offered", "text_prompt"),
        ([], 422, "validation_error", "body"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
async def test_errors_are_real_ones(request_body: object, status: int, code: str, message: str) -> None:
    async with serving() as served:
        reply = await served.post("/v1/predict", request_body)
        assert reply.status_code == status, reply.text
        assert reply.json()["success"] is False
        assert reply.json()["error"]["code"] == code
        assert message in reply.json()["error"]["message"]


async def test_health_models_and_what_is_not_offered() -> None:
    async with serving() as served:
        health = (await served.client.get("/health")).json()
        assert datetime.fromisoformat(health.pop("timestamp")).tzinfo is not None
        assert health == {"status": "healthy", "models_loaded": 1}
        listed = (await served.client.get("/v1/models")).json()
        assert listed["success"] is True
        (model,) = listed["data"].values()
        widgets = {widget["name"]: widget["value"] for widget in model["widgets"]}
        assert {"button_add_point", "button_remove_point", "button_add_rect", "button_clear"} <= set(widgets)
        assert widgets["mask_fineness_slider"] == 10
        assert isinstance(widgets["mask_fineness_slider"], int)  # Qt takes no other number
        assert model["batch_processing_mode"] is None
        assert (await served.client.get("/v1/models/fake/info")).json() == {"success": True, "data": model}
        wrong = await served.client.get("/v1/models/other/info")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "not_found")
        assert "fake" in wrong.json()["error"]["message"]
        for path in ("init", "prompt", "propagate/stream", "cleanup/1"):
            reply = await served.client.post(f"/v1/video/{path}", json={})
            assert (reply.status_code, reply.json()["success"]) == (501, False)


async def test_its_key_comes_in_token() -> None:
    async with serving(Settings(workers=2, api_keys=KEYS)) as served:
        assert (await served.client.get("/health")).status_code == 200
        for headers in ({}, {"Token": ""}, {"Token": "wrong-0123456789abcdef"}):
            for reply in (
                await served.client.get("/v1/models", headers=headers),
                await served.client.post("/v1/predict", json=body(point(3, 4)), headers=headers),
            ):
                assert (reply.status_code, reply.json()["success"]) == (401, False)
        for name in ("anna", "bert"):
            headers = {"Token": f"{name}-0123456789abcdef"}
            reply = await served.client.post("/v1/predict", json=body(point(3, 4)), headers=headers)
            assert reply.status_code == 200
        assert len(served.segmenter.encoded) == 2  # each has its own


async def test_a_null_is_an_option_that_is_left_out() -> None:
    async with serving() as served:
        unset = await shapes(served, point(30, 20) | {"label": None}, epsilon_factor=None, text_prompt=None)
        assert unset == await shapes(served, point(30, 20), epsilon_factor=0.001)
        reply = await served.post("/v1/predict", {"model": "fake", "image": DATA_URL, "params": None})
        assert (reply.status_code, reply.json()["data"]["shapes"]) == (200, [])
