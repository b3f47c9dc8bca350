"""Label Studio's ML backend, with requests as Label Studio sends them."""

import base64
import io
import logging
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.doors.label_studio import gestures
from app.settings import Settings
from tests.app.doors.label_studio.studio import body, config, connected, key_point, rectangle
from tests.app.doors.label_studio.test_brush import decode
from tests.fakes import Served, disc_mask, picture, serving

pytestmark = pytest.mark.usefixtures("either_service")

PREDICT = "/label-studio/predict"


async def click(served: Served, *regions: dict[str, Any], **changed: Any) -> list[dict[str, Any]]:
    reply = await served.post(PREDICT, body(*regions, **changed))
    assert reply.status_code == 200, reply.text
    (result,) = reply.json()["results"]
    assert result["model_version"] == "fake-01234567"
    found: list[dict[str, Any]] = result["result"]
    return found


def painted(region: dict[str, Any]) -> np.ndarray:
    height, width = region["original_height"], region["original_width"]
    return decode(bytes(region["value"]["rle"])).reshape(height, width, 4)[:, :, 3] > 0


def noise(side: int) -> bytes:
    """Return a PNG file that does not compress."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


async def test_it_is_up_and_says_its_version() -> None:
    async with serving() as served:
        for path in ("", "/", "/health"):
            reply = await served.client.get(f"/label-studio{path}")
            assert reply.json() == {"status": "UP", "model_class": "SAM2"}
        setup = {"project": "1.1", "schema": "<View/>" * 5000, "hostname": "http://localhost:8080"}
        reply = await served.post("/label-studio/setup", setup | {"access_token": "t", "extra_params": None})
        assert reply.json() == {"model_version": "fake-01234567"}
        versions = await served.client.get("/label-studio/versions?project=1.1")
        assert versions.json() == {"versions": ["fake-01234567"]}
        webhook = await served.client.post("/label-studio/webhook", content=b"not JSON")
        assert (webhook.status_code, webhook.json()) == (201, {"status": "ok"})


async def test_its_key_is_the_password_of_basic_and_webhooks_need_none() -> None:
    key = "anna-0123456789abcdef"
    async with serving(Settings(workers=2, api_keys=f"anna:{key}")) as served:
        assert (await served.client.get("/label-studio/health")).status_code == 401
        wrong = await served.client.get("/label-studio/health", auth=("anna", "wrong"))
        assert (wrong.status_code, wrong.json()) == (401, {"detail": "This API key is not valid."})
        assert (await served.client.get("/label-studio/health", auth=("anna", key))).status_code == 200
        assert (await served.client.post("/label-studio/webhook", json={})).status_code == 201


async def test_a_click_is_painted_with_the_brush() -> None:
    async with connected() as (served, _):
        (region,) = await click(served, key_point(25, 75))
        assert 1 <= len(region["id"]) <= 10
        assert region["from_name"] == "BrushLabels"
        assert region["to_name"] == "img"
        assert region["type"] == "brushlabels"
        assert (region["original_width"], region["original_height"], region["image_rotation"]) == (60, 40, 0)
        assert region["value"]["format"] == "rle"
        assert region["value"]["brushlabels"] == ["Eagle"]
        assert region["score"] == 1.0
        assert region["readonly"] is False
        assert "item_index" not in region
        assert (painted(region) == disc_mask(15, 30, 9, height=40, width=60)).all()


async def test_signs_of_points_and_boxes_become_one_prompt() -> None:
    async with connected() as (served, _):
        drawn = [
            key_point(10, 10),
            key_point(20, 20, is_positive=False),
            key_point(30, 30, is_positive=0),
            {**key_point(40, 40), "is_positive": None},
            rectangle(50, 50, 25, 25),
        ]
        assert len(await click(served, *drawn)) == 1
        (prompt,) = served.segmenter.decoded[-1]
        assert prompt.points == ((6, 4), (24, 16), (12, 8), (18, 12))
        assert prompt.labels == (1, 1, 0, 0)
        assert prompt.box == (30, 20, 45, 30)
        assert not prompt.multimask_output
        value = key_point(10, 10)["value"] | {"positive": False}
        assert await click(served, {**key_point(), "value": value, "is_positive": None}) == []
        turned = rectangle(50, 25, 20, 30)
        turned["value"]["rotation"] = 90
        await click(served, turned)
        assert served.segmenter.decoded[-1][0].box == pytest.approx((18, 10, 30, 22))


async def test_several_objects_at_once() -> None:
    async with connected() as (served, _):
        regions = await click(
            served,
            rectangle(0, 0, 30, 30),
            rectangle(50, 50, 40, 40),
            key_point(10, 10),
            key_point(95, 5),
            key_point(70, 70, is_positive=False),
            rectangle(10, 60, 20, 20, label="House"),
        )
        assert [region["value"]["brushlabels"] for region in regions] == [["Eagle"]] * 3 + [["House"]]
        first, second, third, house = served.segmenter.decoded[-1]
        assert (first.points, first.labels) == (((6, 4), (42, 28)), (1, 0))
        assert (second.points, second.labels) == (((42, 28),), (0,))
        assert (third.box, third.points) == (None, ((57, 2), (42, 28)))
        assert (house.points, house.box) == ((), (6, 24, 18, 32))


async def test_without_anything_to_find_there_is_no_region() -> None:
    async with connected() as (served, _):
        assert await click(served) == []
        assert await click(served, key_point(is_positive=False)) == []
        assert served.segmenter.decoded == []


async def test_the_label_config_decides_the_kind_of_region() -> None:
    async with connected() as (served, _):
        mask = disc_mask(30, 20, 9, height=40, width=60)
        (region,) = await click(served, key_point(), labels=config("PolygonLabels", "RectangleLabels"))
        points = np.array(region["value"]["points"]) * [0.6, 0.4]
        assert region["value"]["closed"] is True
        assert region["value"]["polygonlabels"] == ["Eagle"]
        assert abs(points.min(axis=0) - [np.nonzero(mask)[1].min(), np.nonzero(mask)[0].min()]).max() < 1
        (region,) = await click(served, key_point(), labels=config("RectangleLabels"))
        value = region["value"]
        rows, columns = np.nonzero(mask)
        assert value["rectanglelabels"] == ["Eagle"]
        assert value["x"] * 0.6 == pytest.approx(columns.min())
        assert value["height"] * 0.4 == pytest.approx(np.ptp(rows) + 1)
        (region,) = await click(served, key_point(), labels=config("BrushLabels", "BitmaskLabels"))
        head, _, text = region["value"]["imageDataURL"].partition(",")
        assert (head, region["value"]["bitmasklabels"]) == ("data:image/png;base64", ["Eagle"])
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            assert (np.asarray(image.convert("RGBA"))[:, :, 3] > 0).tolist() == mask.tolist()


async def test_a_label_goes_to_the_tag_that_has_it() -> None:
    labels = (
        '<View><Image name="img" value="$image"/><Image name="other" value="$image"/>'
        '<BrushLabels name="b" toName="other"><Label value="Eagle"/></BrushLabels>'
        '<BrushLabels name="a" toName="img"><Label value="House"/></BrushLabels>'
        '<PolygonLabels name="p" toName="img"><Label alias="Eagle" value="Big bird"/></PolygonLabels></View>'
    )
    async with connected() as (served, _):
        assert (await click(served, key_point(), labels=labels))[0]["from_name"] == "p"
        named = key_point()
        named["value"] |= {"keypointlabels": [], "labels": ["Unknown"]}
        (region,) = await click(served, named, labels=labels)
        assert (region["from_name"], region["value"]["brushlabels"]) == ("a", ["Unknown"])
        # Read apart from the rest of the body, because it is long: the fields beside it were lost, which was a 500.
        named["value"] |= {"labels": ["long" * 2000]}
        (region,) = await click(served, named | {"is_positive": None}, labels=labels)
        assert region["value"]["brushlabels"] == ["long" * 2000]


async def test_one_picture_of_a_list() -> None:
    labels = config("BrushLabels").replace('value="$image"', 'valueList="$pages"')
    async with connected() as (served, studio):
        studio.pictures["/data/upload/1/b.png"] = picture(30, 20)
        data = {"pages": ["/data/upload/1/a.png", "/data/upload/1/b.png"]}
        (region,) = await click(served, key_point(item_index=1), labels=labels, data=data)
        assert (region["item_index"], region["original_width"]) == (1, 30)
        reply = await served.post(PREDICT, body(key_point(item_index=2), labels=labels, data=data))
        assert (reply.status_code, "item_index" in reply.text) == (422, True)


async def test_sizes_are_those_after_exif() -> None:
    async with connected() as (served, studio):
        exif = Image.Exif()
        exif[0x0112] = 6
        file = io.BytesIO()
        Image.new("RGB", (60, 40)).save(file, "JPEG", exif=exif)
        studio.pictures["/data/upload/1/a.png"] = file.getvalue()
        (region,) = await click(served, key_point())
        assert (region["original_width"], region["original_height"]) == (40, 60)
        assert painted(region).shape == (60, 40)


async def test_a_picture_is_fetched_and_embedded_once() -> None:
    async with connected() as (served, studio):
        for _ in range(3):
            await click(served, key_point())
        assert len(studio.requests) == 1
        assert len(served.segmenter.encoded) == 1
        (image,) = (await served.client.get("/images")).json()["images"]
        await served.client.delete(f"/images/{image['image_id']}")
        await click(served, key_point())
        assert len(studio.requests) == 2


async def test_pictures_in_the_task_itself() -> None:
    async with serving() as served:
        data = {"image": "data:image/png;base64," + base64.b64encode(picture()).decode()}
        assert len(await click(served, key_point(), data=data)) == 1
        capital = {"image": data["image"].replace("data:", " DATA:")}
        assert len(await click(served, key_point(), data=capital)) == 1
        large = {"image": "data:image/png;base64," + base64.b64encode(noise(300)).decode()}
        for _ in range(2):
            (region,) = await click(served, key_point(), data=large)
            assert region["original_width"] == 300
        assert len(served.segmenter.encoded) == 2
        batch = body(data=large) | {"params": {"context": None}}
        assert (await served.post(PREDICT, batch)).status_code == 200
        assert served.app.state.label_studio_ahead.waiting == 0
        reply = await served.post(PREDICT, body(key_point(), data={"image": "data:image/png;base64,&"}))
        assert reply.status_code == 422


def region(kind: str, **value: object) -> dict[str, object]:
    return {"type": kind, "to_name": "img", "value": value}


@pytest.mark.parametrize(
    ("changed", "status", "message"),
    [
        ({"label_config": "<View>"}, 422, "label_config: it is not XML"),
        ({"label_config": '<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>'}, 422, "document type"),
        ({"label_config": "<View>" * 101 + "</View>" * 101}, 422, "more than 100 deep"),
        ({"label_config": config()}, 422, "no tag can keep a mask"),
        ({"label_config": 3}, 422, "label_config"),
        ({"tasks": []}, 422, "a context belongs to one task, not to 0"),
        ({"tasks": {}}, 422, "tasks"),
        ({"project": "1" * 255}, 422, "project: a value of 257 bytes, where at most 256"),
        ({"tasks": [{"id": "1" * 255, "data": {}}]}, 422, "tasks[0]: a value of 257 bytes"),
        ({"tasks": [{"id": 1, "data": {"image": "/" * 8191}}]}, 422, "address has 8193 bytes"),
        ({"tasks": [{"id": 1, "data": {"image": "/" * 70_000}}]}, 422, "address has 70002 bytes"),
        ({"tasks": [{"id": 1, "data": {"text": "a"}}]}, 422, "no picture for the Image tag 'img'"),
        ({"tasks": [{"id": 1, "data": {"image": 5}}]}, 422, "tasks[0]: $image of its data"),
        ({"params": {"context": {"result": [{"type": "keypointlabels"}]}}}, 422, "result[0].to_name"),
        ({"params": {"context": {"result": [key_point() | {"type": "brushlabels"}]}}}, 501, "brushlabels"),
        (
            {"params": {"context": {"result": [region("brushlabels", format="rle", rle=[0, 1])]}}},
            501,
            "brushlabels",
        ),
        (
            {"params": {"context": {"result": [region("polygonlabels", points=[[1, 1]])]}}},
            501,
            "polygonlabels",
        ),
        ({"params": {"context": {"result": [region("rectanglelabels", x=1, width=5)]}}}, 422, "has x and y"),
        ({"params": {"context": {"result": [key_point() | {"image_rotation": 90}]}}}, 501, "rotated"),
        ({"params": {"context": {"result": [rectangle(10, 10, 0, 5)]}}}, 422, "is empty"),
        ({"params": {"context": {"result": [key_point()] * 257}}}, 422, "257 points; the limit is 256"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_errors_have_a_status_that_says_it_and_a_reason_in_the_log(
    changed: dict[str, Any], status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with connected() as (served, _):
        reply = await served.post(PREDICT, body(key_point()) | changed)
        assert reply.status_code == status, reply.text
        assert message in reply.json()["detail"]
        assert message in caplog.text


async def test_many_regions_do_not_hold_up_other_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points are compared with boxes: not on the event loop, and not for more than a request may have."""
    compared: list[threading.Thread] = []
    inside = gestures._is_inside

    def is_inside(*arguments: Any) -> bool:
        compared.append(threading.current_thread())
        return inside(*arguments)

    monkeypatch.setattr(gestures, "_is_inside", is_inside)
    async with connected(max_prompts=20) as (served, _):
        boxes = [rectangle(n, n, 9, 9) for n in range(20)]
        for more, number in (
            ([rectangle(1, 1, 2, 2)], 21),
            ([key_point(90, 90)], 21),
            ([key_point()] * 4352, 0),
        ):
            reply = await served.post(PREDICT, body(*boxes, *more, *[key_point()] * 20))
            assert reply.status_code == 422
            assert (f"{number} prompts in one request" in reply.text) == bool(number)
        await click(served, *boxes, *[key_point(5, 5)] * 99)
        assert len(compared) > 99
        assert threading.current_thread() not in compared


async def test_bodies_that_are_no_json_objects() -> None:
    async with serving() as served:
        for content in (b"", b"[]", b"{", b'{"tasks": [}', b'{"a": 1, "a": 2}'):
            for path in ("/predict", "/setup"):
                reply = await served.client.post(f"/label-studio{path}", content=content)
                assert reply.status_code in (400, 422), content
                assert reply.json()["detail"]


async def test_a_well_labelled_picture_is_no_obstacle() -> None:
    """Far more numbers, objects and strings than any other request may have."""
    async with connected() as (served, _):
        sent = body(key_point())
        sent["tasks"][0]["annotations"] = [
            {"result": [{"value": {"format": "rle", "rle": [0, 255] * 600_000}} for _ in range(2)]}
        ]
        sent["tasks"][0]["predictions"] = [{"a": [{}] * 20_000, "b": ["c"] * 200_000}]
        assert (await served.post(PREDICT, sent)).status_code == 200
