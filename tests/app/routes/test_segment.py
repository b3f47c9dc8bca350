"""POST /segment: a picture and its prompts in one form, and what is rejected before the encoder runs."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pycocotools import mask as coco

from app.codecs.answers import Decoded
from app.settings import Settings
from model.types import Embedding, Prediction, Prompt
from tests.fakes import MASK_SIDE, FakeSegmenter, Served, error, picture, serving, until

pytestmark = pytest.mark.usefixtures("either_service")

CLICK = {"point_coords": "[[30, 20]]", "point_labels": "[1]"}


async def segment(
    served: Served, fields: dict[str, str], *, data: bytes | None = None, name: str = "image"
) -> httpx.Response:
    """POST a form to /segment."""
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
        assert len(served.segmenter.encoded) == 1  # the picture was a cache hit


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


async def test_true_and_false_may_be_written_as_pythons_libraries_write_them() -> None:
    async with serving() as served:
        for said, masks in (("False", 1), ("True", 3)):
            response = await segment(served, CLICK | {"multimask_output": said, "replace": said})
            assert len(response.json()["predictions"][0]["masks"]) == masks
        refused = await segment(served, CLICK | {"multimask_output": "Yes"})
        assert error(refused) == (422, "validation_error")


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
        (CLICK | {"prompts": "[{}]"}, "validation_error", "next to 'prompts'"),
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


class OfThisPicture(FakeSegmenter):
    """Its one mask has as many pixels as the shade of its picture, so a mask shows which picture it is of."""

    def _predict(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        logits = np.full(MASK_SIDE**2, -1, np.float32)
        logits[: int(embedding.image_rows[0, 0])] = 1
        return Prediction(logits.reshape(1, MASK_SIDE, MASK_SIDE), np.ones(1, np.float32), 1.0)


def size_of_mask(response: httpx.Response) -> int:
    """Return the area of the one mask, in pixels; for pictures of the size of the logits."""
    assert response.status_code == 200, response.text
    (prediction,) = response.json()["predictions"]
    return int(coco.area(prediction["masks"][0]["rle"]))


def square(shade: int) -> bytes:
    """Return a picture of the size of the logits."""
    return picture(MASK_SIDE, MASK_SIDE, shade=shade)


async def test_each_is_answered_where_the_cache_holds_one_embedding_and_many_come_at_once(
    tmp_path: Path,
) -> None:
    """The disk cache makes a pause between encoding and decoding: the write of the name to the disk."""
    segmenter = OfThisPicture(embedding_side=120)
    settings = Settings(workers=2, device_cache_mib=1, cache_dir=str(tmp_path), disk_cache_mib=1)
    async with serving(settings, segmenter) as served:
        shades = [*range(1, 17), *range(1, 17)]
        responses = await asyncio.gather(*(segment(served, CLICK, data=square(shade)) for shade in shades))
        assert [size_of_mask(response) for response in responses] == shades
        assert len(served.service.store.tiers.device) == 1


async def test_another_picture_under_the_same_id_meanwhile_changes_no_masks() -> None:
    async with serving(segmenter=OfThisPicture()) as served:
        fields = CLICK | {"image_id": "truck", "replace": "true"}
        shades = range(1, 9)
        responses = await asyncio.gather(*(segment(served, fields, data=square(shade)) for shade in shades))
        assert [size_of_mask(response) for response in responses] == list(shades)


def files_of(folder: Path) -> list[Path]:
    """Return the files of all embeddings and uploads."""
    return [
        file for kind in ("embeddings", "uploads") for file in (folder / kind).rglob("*") if file.is_file()
    ]


async def forgotten(served: Served, image_id: str) -> bool:
    """Whether the id is unknown, and no picture is in memory."""
    missing = await served.client.get(f"/images/{image_id}")
    return error(missing) == (404, "image_not_found") and not served.service.store.tiers.in_memory()


@pytest.mark.parametrize("image_id", ["truck", hashlib.sha256(square(7)).hexdigest()])
@pytest.mark.parametrize("half", ["encode", "decode"])
async def test_a_picture_that_is_deleted_meanwhile_is_answered_and_not_kept(
    half: str, image_id: str, tmp_path: Path
) -> None:
    settings = Settings(workers=2, cache_dir=str(tmp_path), keep_uploads=True)
    async with serving(settings, OfThisPicture()) as served:
        if half == "decode":
            await served.embed(square(7), image_id)
            await served.segmenter.wait_until_entered()
        served.segmenter.gate.clear()
        asked = asyncio.create_task(segment(served, CLICK | {"image_id": image_id}, data=square(7)))
        await served.segmenter.wait_until_entered()
        assert served.segmenter.order[-1] == half
        assert (await served.client.delete(f"/images/{image_id}")).status_code == 204
        served.segmenter.gate.set()
        assert size_of_mask(await asked) == 7
        assert (await asked).json()["image_id"] == image_id
        assert await forgotten(served, image_id)
    assert files_of(tmp_path) == []


async def test_a_picture_that_is_deleted_between_its_halves_is_answered_and_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(segmenter=OfThisPicture()) as served:
        decode = served.service.decode

        async def late(*arguments: Any, **named: Any) -> Decoded:
            assert (await served.client.delete("/images/truck")).status_code == 204
            return await decode(*arguments, **named)

        monkeypatch.setattr(served.service, "decode", late)
        assert size_of_mask(await segment(served, CLICK | {"image_id": "truck"}, data=square(7))) == 7
        assert await forgotten(served, "truck")


async def test_who_waits_for_the_same_picture_by_embed_still_hears_that_it_was_deleted() -> None:
    async with serving(segmenter=OfThisPicture()) as served:
        served.segmenter.gate.clear()
        asked = asyncio.create_task(segment(served, CLICK | {"image_id": "truck"}, data=square(7)))
        uploaded = asyncio.create_task(served.embed(square(7), "truck"))
        await until(lambda: sum(e.callers for e in served.service._encodings._running.values()) == 2)
        await served.client.delete("/images/truck")
        assert error(await uploaded) == (404, "image_not_found")
        served.segmenter.gate.set()
        assert size_of_mask(await asked) == 7
        assert await forgotten(served, "truck")
