"""Roboflow's API, with requests as its client inference-sdk and its server's schemas have them."""

import io
from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from app.settings import Settings
from tests.fakes import MASK_SIDE, SINGLE_IOU, Served, disc_mask, picture, serving

pytestmark = pytest.mark.usefixtures("either_service")

CLICK = {"points": [{"x": 30, "y": 20, "positive": True}]}
WHERE = ["/sam2/segment_image", "/sam3/visual_segment"]


def image(data: bytes) -> dict[str, str]:
    return {"type": "base64", "value": b64encode(data).decode()}


def body(*prompts: dict[str, Any], **changed: object) -> dict[str, Any]:
    """The client's body, in its order."""
    return {
        "source": "external",
        "source_info": {},
        "api_key": None,
        "sam2_version_id": "hiera_tiny",
        "multimask_output": True,
        "format": "json",
        "prompts": {"prompts": list(prompts)},
        "image": image(picture()),
    } | changed


async def segment(served: Served, path: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    reply = await served.post(path, request)
    assert reply.status_code == 200, reply.text
    assert reply.json()["time"] > 0
    found: list[dict[str, Any]] = reply.json()["predictions"]
    return found


def best(radius: float = 9.0, x: float = 30, y: float = 20) -> np.ndarray:
    return disc_mask(x, y, radius, height=40, width=60)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("path", WHERE)
async def test_polygons_of_whole_pixels(path: str) -> None:
    async with serving() as served:
        (found,) = await segment(served, path, body(CLICK))
        assert (found["format"], found["confidence"]) == ("polygon", 1.0)
        (ring,) = found["masks"]
        assert all(isinstance(number, int) for point in ring for number in point)
        assert all(0 <= x < 60 and 0 <= y < 40 for x, y in ring)
        drawn = Image.new("1", (60, 40))
        ImageDraw.Draw(drawn).polygon([tuple(point) for point in ring], fill=1)
        assert agreement(np.asarray(drawn), best()) > 0.9


@pytest.mark.parametrize("path", WHERE)
async def test_rle_and_a_single_mask(path: str) -> None:
    async with serving() as served:
        (found,) = await segment(served, path, body(CLICK, format="rle"))
        assert (found["format"], found["masks"]["size"]) == ("rle", [40, 60])
        assert np.array_equal(coco.decode(found["masks"]), best())
        (found,) = await segment(served, path, body(CLICK, format="rle", multimask_output=False))
        assert found["confidence"] == SINGLE_IOU
        assert np.array_equal(coco.decode(found["masks"]), best(6.0))


@pytest.mark.parametrize("path", WHERE)
async def test_binary_is_an_npz_of_logits(path: str) -> None:
    async with serving() as served:
        other = {"points": [{"x": 10, "y": 10, "positive": True}]}
        reply = await served.post(path, body(CLICK, other, format="binary"))
        assert reply.headers["content-type"] == "application/octet-stream"
        with np.load(io.BytesIO(reply.content)) as file:
            masks, low = file["masks"], file["low_res_masks"]
        assert (masks.shape, masks.dtype) == ((2, 40, 60), np.float32)
        assert (low.shape, low.dtype) == ((2, MASK_SIDE, MASK_SIDE), np.float32)
        assert agreement(masks[0] > 0, best()) > 0.99
        assert agreement(masks[1] > 0, best(x=10, y=10)) > 0.99


async def test_a_binary_file_beyond_a_gibibyte_is_refused_before_it_is_made() -> None:
    async with serving() as served:
        large = image(picture(2500, 2000))
        few = await served.client.post(WHERE[0], json=body(*[CLICK] * 54, format="binary", image=large))
        assert few.status_code == 422
        assert "format: the file of 54 masks would have 1029 MiB" in few.json()["message"]


@pytest.mark.parametrize(
    "prompts",
    [{"prompts": [CLICK]}, [CLICK], CLICK],
    ids=["set", "list", "prompt"],
)
async def test_prompts_in_each_form(prompts: object) -> None:
    async with serving() as served:
        (found,) = await segment(served, WHERE[0], body(prompts=prompts, format="rle"))
        assert np.array_equal(coco.decode(found["masks"]), best())


@pytest.mark.parametrize("prompts", [None, {"prompts": None}, {"prompts": []}, []], ids=str)
async def test_without_prompts_the_whole_picture_is_the_box(prompts: object) -> None:
    async with serving() as served:
        assert len(await segment(served, WHERE[0], body(prompts=prompts))) == 1
        (prompt,) = served.segmenter.decoded[-1]
        assert (prompt.box, prompt.points) == ((0, 0, 60, 40), ())
        request = body()
        del request["prompts"]
        assert len(await segment(served, WHERE[0], request)) == 1
        assert len(served.segmenter.encoded) == 1


async def test_a_box_is_given_by_its_centre_and_points_have_signs() -> None:
    async with serving() as served:
        prompt = {
            "box": {"x": 30, "y": 20, "width": 20, "height": 10},
            "points": [{"x": 31, "y": 21, "positive": True}, {"x": 5.5, "y": 6, "positive": False}],
        }
        await segment(served, WHERE[0], body(prompt))
        (decoded,) = served.segmenter.decoded[-1]
        assert decoded.box == (20, 15, 40, 25)
        assert decoded.points == ((31, 21), (5.5, 6))
        assert decoded.labels == (1, 0)


@pytest.mark.parametrize("path", ["/sam2/embed_image", "/sam3/embed_image"])
async def test_an_embedded_picture_costs_a_click(path: str) -> None:
    async with serving() as served:
        reply = (await served.post(path, {"image": image(picture())})).json()
        assert len(reply["image_id"]) == 64
        assert reply["time"] > 0
        named = await served.post(path, {"image": image(picture()), "image_id": "truck", "api_key": None})
        assert named.json()["image_id"] == "truck"
        await segment(served, WHERE[0], body(CLICK, image_id="truck"))
        assert len(served.segmenter.encoded) == 1
        assert (await served.click("truck")).status_code == 200


async def test_a_name_that_comes_back_with_another_picture_gets_its_masks() -> None:
    async with serving() as served:
        other = image(picture(80, 20, shade=200))
        for path in ("/sam2/embed_image", "/sam3/embed_image"):
            for data in (image(picture()), other):
                reply = await served.post(path, {"image": data, "image_id": "same"})
                assert reply.json()["image_id"] == "same"
        assert (await served.client.get("/images/same")).json()["width"] == 80
        (found,) = await segment(
            served, WHERE[0], body(CLICK, image=image(picture()), image_id="same", format="rle")
        )
        assert found["masks"]["size"] == [40, 60]
        (found,) = await segment(served, WHERE[0], body(CLICK, image=other, image_id="same", format="rle"))
        assert found["masks"]["size"] == [20, 80]


def test_points_that_fall_into_one_pixel_are_one() -> None:
    from app.doors.roboflow import _in_pixels

    ring = [[0.2, 0.3], [0.7, 0.9], [10.0, 0.1], [10.4, 8.0], [0.0, 7.6]]
    assert _in_pixels(ring, 8, 10) == [[0, 0], [9, 0], [9, 7], [0, 7]]


@pytest.mark.parametrize(
    ("request_body", "status", "message"),
    [
        (body(CLICK, image=None), 422, "image"),
        (body(CLICK, image={"type": "base64"}), 422, "image.value"),
        (body(CLICK, image={"type": "numpy", "value": "x"}), 422, "image.type"),
        (body(CLICK, image={"type": "base64", "value": "&"}), 422, "image.value: it is not base64"),
        (body(CLICK, image=image(b"no picture")), 422, "not a picture"),
        (body(CLICK, image={"type": "url", "value": "https://example.org/a.jpg"}), 422, "SAM2_ALLOW_URLS"),
        (body({}), 422, "prompts[0]: it is empty"),
        (body({"points": []}), 422, "prompts[0]: it is empty"),
        (body({"box": {"x": 1, "y": 2, "width": 3}}), 422, "height"),
        (body({"box": {"x": 1, "y": 2, "width": 0, "height": 3}}), 422, "box.width: Input should be greater"),
        (body({"points": [{"x": 1, "y": 2, "positive": 1}]}), 422, "positive"),
        (body({"points": [{"x": 1e6, "y": 2}]}), 422, "outside"),
        (body(prompts="dog"), 422, "prompts"),
        (body(CLICK, format="coco"), 422, "format"),
        (body(CLICK, save_logits_to_cache=True), 501, "save_logits_to_cache"),
        (body(CLICK, load_logits_from_cache=True), 501, "load_logits_from_cache"),
        (body(*[CLICK] * 257), 422, "SAM2_MAX_PROMPTS"),
        ([], 422, "body"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
async def test_errors_have_a_message_at_the_top(request_body: object, status: int, message: str) -> None:
    async with serving() as served:
        for path in WHERE:
            reply = await served.post(path, request_body)
            assert reply.status_code == status, reply.text
            assert message in reply.json()["message"]
            assert "error" not in reply.json()


async def test_the_rest_of_its_api_is_refused_in_words() -> None:
    async with serving() as served:
        for path in ("/sam3/concept_segment", "/sam2/other"):
            reply = await served.post(path, {})
            assert reply.status_code == 501
            assert path in reply.json()["message"]
    key = "anna-0123456789abcdef"
    async with serving(Settings(workers=2, api_keys=f"anna:{key}")) as served:
        assert (await served.post("/sam3/concept_segment", {"api_key": key})).status_code == 501
        assert (await served.post("/sam2/other", {})).status_code == 401


async def test_a_picture_at_a_url_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(self: object, url: str, *, arrived: Any) -> bytes:
        assert url == "https://pictures.example/truck.png"
        arrived(len(picture()))
        return picture()

    monkeypatch.setattr("app.routes.remote_pictures.RemotePictures.fetch", fetch)
    where = {"type": "url", "value": "https://pictures.example/truck.png"}
    async with serving(Settings(workers=2, allow_urls=True)) as served:
        (found,) = await segment(served, WHERE[0], body(CLICK, image=where, format="rle"))
        assert np.array_equal(coco.decode(found["masks"]), best())
        assert served.app.state.body_budget.used_bytes == 0


async def test_a_null_is_an_option_that_is_left_out() -> None:
    """Roboflow's schemas call these optional, so programs write their unset ones as null."""
    click = {"points": [{"x": 30, "y": 20, "positive": None}], "box": None}
    unset = dict.fromkeys(
        ["format", "multimask_output", "save_logits_to_cache", "load_logits_from_cache", "sam2_version_id"]
    )
    async with serving() as served:
        path = "/sam2/segment_image"
        assert await segment(served, path, body(click, **unset)) == await segment(served, path, body(CLICK))
        reply = await served.post(path, body(CLICK, image=None))
        assert (reply.status_code, reply.json()["message"][:6]) == (422, "image:")
