"""QuPath's SAM extension, with requests as it sends them."""

from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from app.settings import Settings
from tests.fakes import Served, picture, serving

CLICK: dict[str, Any] = {
    "type": "sam2_l",
    "bbox": None,
    "point_coords": [[30, 20]],
    "point_labels": [1],
    "b64img": b64encode(picture()).decode(),
    "b64mask": None,
    "multimask_output": False,
    "checkpoint_url": None,
}


async def predict(served: Served, **changed: object) -> Any:
    reply = await served.post("/sam/", CLICK | changed)
    assert reply.status_code == 200, reply.text
    return reply.json()


def drawn(feature: dict[str, Any]) -> np.ndarray:
    """The mask (40, 60) of a feature; pixels belong to it if their centre lies inside."""
    geometry = feature["geometry"]
    parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    image = Image.new("1", (600, 400))
    for outer, *holes in parts:
        for ring, value in ((outer, 1), *((hole, 0) for hole in holes)):
            assert ring[0] == ring[-1]
            ImageDraw.Draw(image).polygon([(10 * x, 10 * y) for x, y in ring], fill=value)
    return np.asarray(image)[5::10, 5::10]


async def test_a_click_is_answered_with_an_outline_in_geojson() -> None:
    async with serving() as served:
        (feature,) = await predict(served)
        assert feature["type"] == "Feature"
        assert feature["properties"] == {
            "object_idx": 0,
            "label": "object",
            "quality": feature["properties"]["quality"],
            "sam_model": "fake",
        }
        assert 0 < feature["properties"]["quality"] <= 1
        radius = served.segmenter.decoded[-1]
        assert radius  # the fake's record of prompts
        (mask,) = (await served.post("/decode", _as_decode(await _id(served)))).json()["predictions"][0][
            "masks"
        ]
        assert abs(drawn(feature).sum() - mask["area"]) <= 0.1 * mask["area"]


async def test_a_box_may_begin_at_any_corner() -> None:
    """In a turned viewer, the upper left corner of an annotation is another one of the picture."""
    corners = ([10, 5, 50, 35], [50, 35, 10, 5], [50, 5, 10, 35], [10, 35, 50, 5])
    async with serving() as served:
        found = [await predict(served, bbox=box, point_coords=None, point_labels=None) for box in corners]
        assert found[0][0]["geometry"]["coordinates"]
        assert all(features == found[0] for features in found)


async def _id(served: Served) -> str:
    (image,) = (await served.client.get("/images")).json()["images"]
    return str(image["image_id"])


def _as_decode(image_id: str) -> dict[str, object]:
    return {"image_id": image_id, "point_coords": [[30, 20]], "point_labels": [1], "multimask_output": False}


async def test_several_masks_and_boxes() -> None:
    async with serving() as served:
        features = await predict(served, multimask_output=True)
        assert len(features) == 3
        qualities = [feature["properties"]["quality"] for feature in features]
        assert qualities == sorted(qualities, reverse=True)
        assert len(await predict(served, bbox=[10, 10, 50, 30], point_coords=None, point_labels=None)) == 1
        assert len(await predict(served, type="vit_h", unknown_field=1)) == 1
        assert await predict(served, point_labels=[0]) == []  # those of the object are out of view
        assert await predict(served, point_coords=[[-30, -20]]) == []  # an empty mask
        assert len(served.segmenter.encoded) == 1


@pytest.mark.parametrize(
    ("changed", "status", "message"),
    [
        ({"b64mask": "aGVsbG8="}, 501, "b64mask"),
        ({"point_coords": None, "point_labels": None}, 422, "prompts[0]"),
        ({"bbox": [1, 2, 3]}, 422, "bbox"),
        ({"b64img": "aGVsbG8="}, 422, "not a picture"),
        ({"point_labels": ["1"]}, 422, "point_labels"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_errors_say_why_in_detail(changed: dict[str, object], status: int, message: str) -> None:
    async with serving() as served:
        reply = await served.post("/sam/", CLICK | changed)
        assert reply.status_code == status
        assert message in reply.json()["detail"]


async def test_the_rest_of_its_api() -> None:
    async with serving() as served:
        version = await served.client.get("/sam/version/")
        assert version.headers["content-type"].startswith("text/plain")
        assert version.text
        (weights,) = (await served.client.get("/sam/weights/?type=sam2_t")).json()
        assert weights["type"] == "sam2_t"
        assert weights["name"] == "fake"
        assert weights["url"]
        assert (await served.client.get("/sam/progress/")).json() == {"message": "", "percent": -1}
        for path in ("automask/", "video/", "sam3/", "upload/"):
            reply = await served.client.post(f"/sam/{path}", json={})
            assert reply.status_code == 501
            assert path in reply.json()["detail"]


async def test_a_closed_door_is_none() -> None:
    async with serving(Settings(workers=2, doors="none")) as served:
        reply = await served.client.get("/sam/version/")
        assert reply.status_code == 404
        assert reply.json().keys() == {"error"}


async def test_a_null_is_an_option_that_is_left_out() -> None:
    async with serving() as served:
        assert await predict(served, type=None, multimask_output=None) == await predict(served)
        # A long string is read apart from the rest of the body: the options without a value were lost with it.
        assert await predict(served, type="t" * 5000) == await predict(served)
