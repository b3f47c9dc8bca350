"""POST /decode: rejected requests get the reason and the place in the request."""

import base64
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from app.codecs import json_bodies
from app.codecs.logits import encode_logits
from app.settings import Settings
from tests.app.routes.decode_requests import CLICK, HEIGHT, WIDTH, masks_in
from tests.fakes import MASK_SIDE, error, picture, serving

pytestmark = pytest.mark.usefixtures("either_service")


@pytest.mark.parametrize(
    ("fields", "where", "words"),
    [
        ({}, "prompts[0]", "empty"),
        ({"prompts": [CLICK, {}]}, "prompts[1]", "empty"),
        ({"point_coords": [[1, 1]]}, "prompts[0]", "1 point_coords but 0 point_labels"),
        ({"point_labels": [1]}, "prompts[0]", "empty"),
        ({"box": [1, 2, 3, 4], "point_labels": [1]}, "prompts[0]", "0 point_coords but 1 point_labels"),
        ({"point_coords": [[121, 0]], "point_labels": [1]}, "prompts[0]", "(121, 0) lies too far outside"),
        ({"point_coords": [[0, -40.5]], "point_labels": [1]}, "prompts[0]", "too far outside"),
        ({"box": [0, 0, 1, 80.5]}, "prompts[0]", "too far outside"),
        ({"box": [-60.5, 0, 1, 1]}, "prompts[0]", "too far outside"),
        ({"box": [5, 1, 5, 2]}, "prompts[0]", "[5.0, 1.0, 5.0, 2.0] is empty"),
        ({"box": [1, 5, 2, 4]}, "prompts[0]", "y0 < y1"),
        ({"mask_input": ""}, "prompts[0]", "not a logits string"),
        ({"mask_input": "AAAA"}, "prompts[0]", "not a logits string"),
        ({"mask_input": "é" * 40}, "prompts[0]", "not a logits string"),
        ({"mask_input": "A" * 400}, "prompts[0]", "not a logits string"),
        ({"mask_input": {"size": [WIDTH, HEIGHT], "counts": [2400]}}, "prompts[0]", "the picture's is [40, 60]"),
        ({"mask_input": {"size": [HEIGHT, WIDTH], "counts": [2399]}}, "prompts[0]", "add up to 2399"),
        ({"mask_input": {"size": [HEIGHT, WIDTH], "counts": "!"}}, "prompts[0]", "character 0"),
    ],
)  # fmt: skip
async def test_a_prompt_that_makes_no_sense_says_why(fields: dict[str, Any], where: str, words: str) -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        response = await served.post("/decode", {"image_id": "truck", **fields})
        assert error(response) == (422, "invalid_prompt")
        body = response.json()["error"]
        assert body["details"][0]["where"] == where
        assert words in body["message"]
        assert served.segmenter.decoded == []


async def test_logits_that_are_damaged_or_of_another_model_are_refused() -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        request = {"image_id": "truck", "return_logits": True, **CLICK}
        text = masks_in(await served.post("/decode", request))[0]["logits"]
        other = encode_logits(np.zeros((64, 64), np.float32), bytes_per_value=4)
        not_finite = encode_logits(np.full((MASK_SIDE, MASK_SIDE), np.nan, np.float32), bytes_per_value=4)
        values = np.full((MASK_SIDE, MASK_SIDE), 3e38, "<f4").tobytes()
        head = struct.pack("<4sBHHI", b"SAML", 4, MASK_SIDE, MASK_SIDE, zlib.crc32(values))
        for bad, words in (
            (base64.urlsafe_b64encode(head + values).decode(), "beyond 32"),
            (text[:-4], "damaged"),
            (text[:400] + ("A" if text[400] != "A" else "B") + text[401:], "damaged"),
            (other, "64x64 logits; this model's are 32x32"),
            (not_finite, "not finite"),
        ):
            response = await served.post("/decode", {"image_id": "truck", "mask_input": bad})
            assert error(response) == (422, "invalid_prompt")
            assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "where", "words"),
    [
        ('"point_coords": [[NaN, 1]]', "point_coords[0][0]", "finite number (got nan)"),
        ('"point_coords": [[1, Infinity]]', "point_coords[0][1]", "finite number (got inf)"),
        ('"point_coords": [[1, -1e400]]', "point_coords[0][1]", "finite number (got -inf)"),
        (f'"point_coords": [[1{"0" * 400}, 1]]', "point_coords[0][0]", "finite number"),
        ('"point_coords": [["1", 1]]', "point_coords[0][0]", "number (got '1')"),
        ('"point_coords": [[true, 1]]', "point_coords[0][0]", "number (got True)"),
        ('"point_coords": [[null, 1]]', "point_coords[0][0]", "number (got None)"),
        ('"point_coords": [1, 1]', "point_coords[0]", "array (got 1)"),
        ('"point_coords": [[1]]', "point_coords[0]", "at least 2"),
        ('"point_coords": [[1, 2, 3]]', "point_coords[0]", "at most 2"),
        (f'"point_coords": {[[1, 1]] * 257}', "point_coords", "at most 256"),
        ('"point_labels": [2]', "point_labels[0]", "(got 2)"),
        ('"point_labels": [-1]', "point_labels[0]", "(got -1)"),
        ('"point_labels": [true]', "point_labels[0]", "(got True)"),
        ('"point_labels": ["1"]', "point_labels[0]", "(got '1')"),
        ('"point_labels": [0.5]', "point_labels[0]", "(got 0.5)"),
        ('"box": [1, 2, 3]', "box", "at least 4"),
        ('"box": [1, 2, NaN, 4]', "box[2]", "finite"),
        ('"box": "1,2,3,4"', "box", "array"),
        ('"mask_input": 5', "mask_input.rle", "object (got 5)"),
        ('"mask_input": {"size": [1, 2]}', "mask_input.rle.counts", "required"),
        ('"mask_input": {"size": [1, 0], "counts": ""}', "mask_input.rle.size[1]", "(got 0)"),
        ('"mask_input": {"size": [1, 2], "counts": [1, "1"]}', "mask_input.rle.counts.list[1]", "(got '1')"),
        ('"mask_input": {"size": [1, 2], "counts": "", "order": "C"}', "mask_input.rle.order", "unknown field"),
        ('"multimask_output": 1', "multimask_output", "boolean (got 1)"),
        ('"multimask": true', "multimask", "unknown field"),
        ('"mask_format": "polygon"', "mask_format", "'polygons'"),
        ('"return_logits": "true"', "return_logits", "boolean (got 'true')"),
        ('"prompts": []', "prompts", "at least 1"),
        ('"prompts": [{"point_coord": []}]', "prompts[0].point_coord", "unknown field"),
        ('"prompts": [{}], "box": [1, 2, 3, 4]', "body", "box given next to 'prompts'"),
        (f'"prompts": [{"{}," * 5000}{{}}]', "prompts", "at most 4096"),
        ('"image_id": 5', "image_id", "string (got 5)"),
        ('"image_id": "a b"', "image_id", "pattern"),
    ],
)  # fmt: skip
async def test_values_of_the_wrong_kind_are_refused_where_they_stand(
    fields: str, where: str, words: str
) -> None:
    """Numbers must be numbers: no strings, no booleans, and only finite values."""
    async with serving() as served:
        text = f'{{"image_id": "truck", {fields}}}'
        response = await served.client.post("/decode", content=text.encode())
        assert error(response) == (422, "validation_error")
        detail = response.json()["error"]["details"][0]
        assert detail["where"] == where
        assert words in detail["what"]
        assert not detail["what"].startswith("Value error")  # pydantic's words before ours
        assert where in response.json()["error"]["message"]


async def test_image_id_is_required() -> None:
    async with serving() as served:
        response = await served.post("/decode", CLICK)
        assert error(response) == (422, "validation_error")
        assert response.json()["error"]["details"][0] == {"where": "image_id", "what": "Field required"}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 5000, b'{"image_id": 1' + b"0" * 5000 + b"}"])
async def test_what_is_not_json_is_a_bad_request(body: bytes) -> None:
    async with serving() as served:
        response = await served.client.post("/decode", content=body)
        assert error(response) == (400, "bad_request")
        assert "not JSON" in response.json()["error"]["message"]


async def test_a_body_full_of_mistakes_gets_a_short_answer() -> None:
    """A list of all mistakes would take a hundred times the memory of the body."""
    many = 20_000
    async with serving() as served:
        for fields, details in (
            ({"prompts": [1] * 4000}, 1),
            ({"mask_input": {"size": [1, 1], "counts": ["1"] * many}}, 1),
            ({f"unknown{i}": 1 for i in range(many)}, 0),
        ):
            response = await served.post("/decode", {"image_id": "truck", **fields})
            assert error(response) == (422, "validation_error")
            assert len(response.json()["error"].get("details", [])) == details
            assert len(response.content) < 1000


async def test_the_number_of_prompts_is_limited() -> None:
    async with serving(Settings(max_prompts=2, workers=2)) as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        assert (
            await served.post("/decode", {"image_id": "truck", "prompts": [CLICK] * 2})
        ).status_code == 200
        response = await served.post("/decode", {"image_id": "truck", "prompts": [CLICK] * 3})
        assert error(response) == (422, "invalid_prompt")
        assert (
            "3 prompts in one request; the limit is 2 (SAM2_MAX_PROMPTS)"
            in response.json()["error"]["message"]
        )


async def test_an_unknown_field_is_named_and_where_the_known_ones_are() -> None:
    async with serving() as served:
        response = await served.post("/decode", {"image_id": "truck", "points": [[1, 1]]})
        assert error(response) == (422, "validation_error")
        message = response.json()["error"]["message"]
        assert message == "points: unknown field; /docs lists all fields (got [[1, 1]])."


async def test_an_unknown_picture_is_to_be_embedded_first() -> None:
    async with serving() as served:
        response = await served.click("abc")
        assert error(response) == (404, "image_not_found")
        assert response.json()["error"]["message"] == (
            "No embedding for image_id 'abc'. POST the picture to /embed first."
        )


async def test_a_field_in_the_query_is_refused_for_it_belongs_in_the_body() -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        response = await served.client.post(
            "/decode?mask_format=png", json={"image_id": "truck", "box": [1, 2, 30, 20]}
        )
        assert error(response) == (422, "validation_error")
        assert response.json()["error"]["details"][0]["where"] == "query.mask_format"


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"box": "A" * 5000}, "box"),
        ({"box": ["A" * 5000, 1, 2, 3]}, "box[0]"),
        ({"mask_format": "A" * 5000}, "mask_format"),
        ({"box": [1, 2, 30, 40], "A" * 5000: 1}, "the name of a field"),
    ],
)
async def test_an_error_shows_nothing_that_the_client_did_not_send(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], where: str
) -> None:
    """Long strings are taken out before a body is parsed. Who knew what stands for them could send it."""
    token = json_bodies._new_token()
    monkeypatch.setattr(json_bodies, "_new_token", lambda: token)
    async with serving() as served:
        response = await served.post("/decode", {"image_id": "truck", **fields})
        assert error(response) == (422, "validation_error")
        assert response.json()["error"]["details"][0]["where"] == where
        assert token[:16] not in response.text
