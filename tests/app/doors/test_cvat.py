"""CVAT, with requests as its server sends them."""

import logging
from base64 import b64encode
from typing import Any

import httpx
import numpy as np
import pytest

from app.settings import Settings
from tests.fakes import Served, disc_mask, picture, serving

pytestmark = pytest.mark.usefixtures("either_service")

PICTURE = picture()
CLICK: dict[str, Any] = {
    "image": b64encode(PICTURE).decode(),
    "pos_points": [[30.0, 20.0]],
    "neg_points": [],
    "obj_bbox": None,
}
HEADERS = {
    "x-nuclio-project-name": "cvat",
    "x-nuclio-function-namespace": "nuclio",
    "x-nuclio-invoke-via": "domain-name",
}
"""Of all calls."""
INVOKE = HEADERS | {"x-nuclio-function-name": "sam2", "x-nuclio-path": "/"}
KEYS = "anna:anna-0123456789abcdef"
BEST = disc_mask(30, 20, 9, height=40, width=60)
"""Of the three discs of a lone click."""


async def invoke(served: Served, **changed: object) -> httpx.Response:
    return await served.client.post("/api/function_invocations", json=CLICK | changed, headers=INVOKE)


async def shape(served: Served, **changed: object) -> dict[str, Any]:
    reply = await invoke(served, **changed)
    assert reply.status_code == 200, reply.text
    (shape,) = reply.json()["shapes"]
    return dict(shape)


def drawn(points: list[int]) -> np.ndarray:
    """The mask (40, 60) of a shape."""
    assert all(type(number) is int for number in points)
    *lengths, left, top, right, bottom = points
    pixels = np.zeros((40, 60), bool)
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    pixels[top : bottom + 1, left : right + 1] = inside.reshape(bottom + 1 - top, right + 1 - left)
    return pixels


async def test_it_is_listed_as_an_interactor() -> None:
    async with serving() as served:
        listed = (await served.client.get("/api/functions", headers=HEADERS)).json()
        alone = (await served.client.get("/api/functions/sam2", headers=HEADERS)).json()
        assert listed == {"sam2": alone}
        annotations = alone["metadata"]["annotations"]
        assert all(isinstance(value, str) for value in annotations.values())
        assert alone["metadata"]["name"] == "sam2"
        assert annotations["type"] == "interactor"
        assert annotations["version"] == "2"
        assert bool(annotations["startswith_box"]) is False
        assert bool(annotations["startswith_box_optional"]) is True
        assert (annotations["min_pos_points"], annotations["min_neg_points"]) == ("1", "0")
        assert alone["spec"]["description"]
        assert alone["status"] == {"state": "ready", "httpPort": 8000}
        missing = await served.client.get("/api/functions/yolo", headers=HEADERS)
        assert missing.status_code == 404
        assert "'yolo'" in missing.json()["error"]


async def test_the_port_is_the_one_that_was_called() -> None:
    async with serving() as served:
        transport = httpx.ASGITransport(served.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8765") as client:
            assert (await client.get("/api/functions/sam2")).json()["status"]["httpPort"] == 8765


async def test_a_click_is_answered_with_the_best_mask() -> None:
    async with serving() as served:
        answer = await shape(served)
        assert answer["type"] == "mask"
        assert answer["attributes"] == [{"spec_id": 0, "value": "1.0000"}]
        assert (drawn(answer["points"]) == BEST).all()
        rows, columns = np.nonzero(BEST)
        assert answer["points"][-4:] == [columns.min(), rows.min(), columns.max(), rows.max()]
        assert (await shape(served, text_prompts=[], new_field=1)) == answer
        assert len(served.segmenter.encoded) == 1


@pytest.mark.parametrize(
    ("changed", "points", "labels", "box"),
    [
        ({"neg_points": [[50.5, 1.25]]}, ((30, 20), (50.5, 1.25)), (1, 0), None),
        ({"obj_bbox": []}, ((30, 20),), (1,), None),
        ({"obj_bbox": [[10.0, 5.0], [50, 35]]}, ((30, 20),), (1,), (10, 5, 50, 35)),
        ({"pos_points": [], "obj_bbox": [[50, 5.5], [10, 35]]}, (), (), (10, 5.5, 50, 35)),
        ({"pos_points": None, "neg_points": [[1, 2]]}, ((1, 2),), (0,), None),
    ],
    ids=["a negative point", "no box", "a box", "a box alone, from right to left", "a negative point alone"],
)
async def test_prompts_reach_the_model(
    changed: dict[str, object], points: object, labels: object, box: object
) -> None:
    async with serving() as served:
        answer = await shape(served, **changed)
        assert drawn(answer["points"]).any()
        ((prompt,),) = served.segmenter.decoded
        assert (prompt.points, prompt.labels, prompt.box) == (points, labels, box)


async def test_it_is_invoked_directly_at_the_address_of_the_page() -> None:
    async with serving() as served:
        direct = await served.client.post("/", json=CLICK)
        assert direct.json() == (await invoke(served)).json()
        page = await served.client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        wrong = await served.client.post("/", json={})
        assert wrong.status_code == 422
        assert wrong.json().keys() == {"error"}
        assert isinstance(wrong.json()["error"], str)
        assert (await served.client.put("/", json=CLICK)).json()["error"]["code"] == "method_not_allowed"


async def test_a_region_of_interest_is_a_picture_of_its_own() -> None:
    """CVAT cuts it out, moves the prompts and moves the answer back: bytes that stay the same for one region."""
    async with serving() as served:
        region = {"image": b64encode(picture(30, 20)).decode(), "pos_points": [[-2.5, 10.0], [15, 10]]}
        for _ in range(2):
            await shape(served)
            answer = await shape(served, **region)
            assert answer["points"][-2] < 30
        assert served.segmenter.encoded == [[(40, 60)], [(20, 30)]]


async def test_an_empty_mask_is_one_pixel_of_background() -> None:
    for form, expected in (
        ("shapes", [1, 0, 0, 0, 0]),
        ("crop", {"mask": [[0]], "bounds": [0, 0, 0, 0], "points": []}),
    ):
        settings = Settings(workers=2, cvat_answer=form)  # type: ignore[arg-type]
        async with serving(settings) as served:
            reply = (await invoke(served, pos_points=[[-60, -40]])).json()
            assert (reply["shapes"][0]["points"] if form == "shapes" else reply) == expected


async def test_the_older_form_has_the_pixels_within_the_box() -> None:
    async with serving(Settings(workers=2, cvat_answer="crop")) as served:
        reply = (await invoke(served, pos_points=[[5, 35]])).json()
        assert reply.keys() == {"mask", "bounds", "points"}
        expected = disc_mask(5, 35, 9, height=40, width=60)
        left, top, right, bottom = reply["bounds"]
        pixels = np.array(reply["mask"])
        assert set(np.unique(pixels)) == {0, 255}
        assert (pixels == 255 * expected[top : bottom + 1, left : right + 1]).all()
        assert pixels.astype(bool).sum() == expected.sum()
        outline = np.array(reply["points"])
        assert outline.min(axis=0) == pytest.approx([left, top], abs=1)
        assert outline.max(axis=0) == pytest.approx([right + 1, bottom + 1], abs=1)


@pytest.mark.parametrize(
    ("changed", "status", "message"),
    [
        ({"pos_points": []}, 422, "empty"),
        ({"obj_bbox": [[1, 2]]}, 422, "obj_bbox: one corner is no box"),
        ({"obj_bbox": [[1, 2], [1, 9]]}, 422, "is empty"),
        ({"obj_bbox": [[1, 2], [3, 4], [5, 6]]}, 422, "obj_bbox"),
        ({"pos_points": [[1, 2, 3]]}, 422, "pos_points"),
        ({"pos_points": [["1", "2"]]}, 422, "pos_points"),
        ({"pos_points": [[900, 20]]}, 422, "outside the picture"),
        ({"text_prompts": ["a truck"]}, 501, "text_prompts"),
        ({"image": b64encode(b"no picture").decode()}, 422, "not a picture"),
        ({"image": "&&&"}, 422, "image: it is not base64"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_errors_are_text_and_their_reason_is_logged(
    changed: dict[str, object], status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as served:
        reply = await invoke(served, **changed)
        assert reply.status_code == status
        assert message in reply.json()["error"]
        assert "/api/function_invocations for cvat" in caplog.text
        assert message in caplog.text


async def test_other_functions_are_not_found() -> None:
    async with serving() as served:
        headers = INVOKE | {"x-nuclio-function-name": "pth-dextr"}
        reply = await served.client.post("/api/function_invocations", json=CLICK, headers=headers)
        assert reply.status_code == 404
        assert "'pth-dextr'" in reply.json()["error"]


async def test_the_key_is_the_password_of_basic() -> None:
    async with serving(Settings(workers=2, api_keys=KEYS)) as served:
        calls = [
            ("GET", "/api/functions"),
            ("GET", "/api/functions/sam2"),
            ("POST", "/api/function_invocations"),
            ("POST", "/"),
        ]
        for method, path in calls:
            body = CLICK if method == "POST" else None
            for auth, status in (
                (None, 401),
                (("anna", "wrong"), 401),
                (("anna", "anna-0123456789abcdef"), 200),
            ):
                reply = await served.client.request(method, path, json=body, headers=INVOKE, auth=auth)
                assert reply.status_code == status, (method, path, auth)
                assert status == 200 or "key" in reply.json()["error"]
        assert (await served.client.get("/")).status_code == 200
        (image,) = (await served.client.get("/images", auth=("anna", "anna-0123456789abcdef"))).json()[
            "images"
        ]
        assert (image["width"], image["height"]) == (60, 40)


async def test_without_a_model_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as served:
        monkeypatch.setattr(type(served.app.state.service), "is_loaded", False)
        reply = await served.client.get("/api/functions/sam2")
        assert reply.json()["status"]["state"] == "building"


async def test_a_closed_door_is_none() -> None:
    async with serving(Settings(workers=2, doors="none")) as served:
        reply = await served.client.post("/", json=CLICK)
        assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_allowed")
        assert (await served.client.get("/api/functions")).status_code == 404
