"""POST /segment: a picture and its prompts in one form, and what is refused before the encoder runs."""

import asyncio
import json

import httpx
import pytest

from app.settings import Settings
from tests.fakes import FakeSegmenter, Served, error, picture, serving

CLICK = {"point_coords": "[[30, 20]]", "point_labels": "[1]"}


async def segment(
    served: Served, fields: dict[str, str], *, data: bytes | None = None, name: str = "image"
) -> httpx.Response:
    """POST a form."""
    files = {name: ("truck.png", data or picture())}
    return await served.client.post("/segment", files=files, data=fields)


@pytest.mark.parametrize("name", ["image", "file"])
async def test_one_request_is_answered_as_embed_and_decode_are(name: str) -> None:
    async with serving() as served:
        response = await segment(served, CLICK, name=name)
        assert response.status_code == 200, response.text
        image_id = response.json()["image_id"]
        assert response.json() == (await served.click(image_id)).json()
        stages = {part.split(";")[0] for part in response.headers["server-timing"].split(", ")}
        assert {"hash", "picture", "queue", "device", "masks"} <= stages
        assert len(served.segmenter.encoded) == 1
        await segment(served, CLICK)
        assert len(served.segmenter.encoded) == 1  # the picture is known now


async def test_prompts_come_as_a_list_or_as_one_object_or_as_plain_fields() -> None:
    box, click = {"box": [5, 5, 50, 35]}, {"point_coords": [[30, 20]], "point_labels": [1]}
    async with serving() as served:
        both = (await segment(served, {"prompts": json.dumps([box, click])})).json()["predictions"]
        assert [len(prediction["masks"]) for prediction in both] == [1, 3]
        assert (await segment(served, {"prompts": json.dumps(box)})).json()["predictions"] == both[:1]
        assert (await segment(served, {"box": "[5, 5, 50, 35]"})).json()["predictions"] == both[:1]


@pytest.mark.parametrize("quote", ["", '"'])
async def test_options_and_logits_may_stand_without_quotes(quote: str) -> None:
    async with serving() as served:
        fields = {"mask_format": f"{quote}png{quote}", "return_logits": "true", "multimask_output": "false"}
        (prediction,) = (await segment(served, CLICK | fields)).json()["predictions"]
        (mask,) = prediction["masks"]
        assert {"png", "logits"} <= set(mask)
        response = await segment(served, {"mask_input": f"{quote}{mask['logits']}{quote}"})
        assert response.json()["predictions"][0]["masks"][0]["area"] == mask["area"]


async def test_a_picture_is_named_and_its_name_is_guarded() -> None:
    async with serving() as served:
        assert (await segment(served, CLICK | {"image_id": "truck"})).json()["image_id"] == "truck"
        assert (await served.click("truck")).status_code == 200
        other = picture(shade=9)
        assert error(await segment(served, CLICK | {"image_id": "truck"}, data=other)) == (
            409,
            "image_id_conflict",
        )
        replaced = await segment(served, CLICK | {"image_id": "truck", "replace": "true"}, data=other)
        assert replaced.status_code == 200


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({}, "invalid_prompt", "empty"),
        ({"prompts": "[]"}, "validation_error", "prompts"),
        ({"prompts": "[{}, {}, {}]"}, "invalid_prompt", "SAM2_MAX_PROMPTS"),
        ({"point_coords": "[[30, 20]]"}, "invalid_prompt", "one label for each point"),
        (
            {"point_coords": "30,20", "point_labels": "[1]"},
            "validation_error",
            "point_coords: it is not JSON",
        ),
        ({"point_coords": '[["30", "20"]]', "point_labels": "[1]"}, "validation_error", "number"),
        ({"point_coords": "[[NaN, 20]]", "point_labels": "[1]"}, "validation_error", "finite"),
        ({"box": "[" * 100_000}, "validation_error", "box: it is not JSON"),
        (CLICK | {"prompts": "[{}]"}, "validation_error", "beside 'prompts'"),
        (CLICK | {"mask_format": "svg"}, "validation_error", "mask_format"),
        (CLICK | {"pointlabels": "[1]"}, "validation_error", "pointlabels"),
        (CLICK | {"image_id": "a b"}, "validation_error", "image_id"),
    ],
)
async def test_what_is_wrong_is_said_before_the_encoder_runs(
    fields: dict[str, str], code: str, words: str
) -> None:
    async with serving(Settings(workers=2, max_prompts=2)) as served:
        response = await segment(served, fields)
        assert error(response) == (422, code)
        assert words in response.json()["error"]["message"]
        assert served.segmenter.encoded == []


async def test_the_errors_of_an_upload_are_those_of_embed() -> None:
    async with serving(Settings(workers=2, max_upload_mib=1)) as served:
        assert error(await segment(served, CLICK, data=b"GIF89a")) == (422, "invalid_image")
        assert error(await segment(served, CLICK, data=bytes(2**20 + 1))) == (413, "image_too_large")
        assert error(await segment(served, CLICK, data=bytes(2**21))) == (413, "image_too_large")
        json_body = await served.post("/segment", {"image": "x"})
        assert error(json_body) == (415, "unsupported_media_type")
        assert "curl" in json_body.json()["error"]["message"]
        text = await served.client.post("/segment", files={"image": (None, "truck.jpg")}, data=CLICK)
        assert error(text) == (422, "validation_error")
        cut = await served.client.post(
            "/segment", content=b"--x", headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
        assert error(cut) == (400, "bad_request")
        query = await served.client.post("/segment?box=1", files={"image": picture()})
        assert error(query) == (422, "validation_error")


async def test_both_halves_together_have_one_deadline() -> None:
    segmenter = FakeSegmenter()
    async with serving(Settings(workers=2, deadline_s=0.2), segmenter) as served:
        segmenter.gate.clear()
        response = await asyncio.wait_for(segment(served, CLICK), 20)
        assert error(response) == (504, "deadline_exceeded")
