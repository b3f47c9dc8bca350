"""Ids that no URL can carry are refused wherever an id may be given."""

import asyncio
import base64
import json

import httpx
import pytest

from app.routes.stream_messages import StreamPrompt
from app.routes.uploads import parse_json
from tests.fakes import error, picture, serving

PNG = {"Content-Type": "image/png"}
BOX = {"box": [1, 2, 30, 20]}


@pytest.mark.parametrize("name", [".", ".."])
async def test_dots_are_no_id(name: str) -> None:
    escaped = name.replace(".", "%2E")
    files, text = {"image": picture()}, base64.b64encode(picture()).decode()
    async with serving() as served:
        client = served.client
        replies: list[httpx.Response] = [
            await client.post("/embed", params={"image_id": name}, content=picture(), headers=PNG),
            await client.post("/embed", files=files, data={"image_id": name}),
            await client.post("/embed", json={"image": text, "image_id": name}),
            await client.post("/segment", files=files, data={"image_id": name, "box": "[1, 2, 30, 20]"}),
            await client.post("/decode", json={"image_id": name, **BOX}),
            await client.get(f"/images/{escaped}"),
            await client.delete(f"/images/{escaped}"),
            await client.get(f"/images/{escaped}/embedding"),
        ]
        for reply in replies:
            assert error(reply) == (422, "validation_error")
            message = reply.json()["error"]["message"]
            assert f"'{name}' cannot be an id" in message
            assert "image_id" in message
        assert (await client.get("/images")).json()["images"] == []
    with pytest.raises(Exception, match="cannot be an id"):
        parse_json(StreamPrompt, json.dumps({"tag": 1, "image_id": name, **BOX}).encode())


@pytest.mark.parametrize("name", ["...", ".a", "a.", "..a", "a..", "-", "_", ":", ".:."])
async def test_other_dots_come_back_from_a_url(name: str) -> None:
    async with serving() as served:
        assert (await served.embed(picture(), name)).json()["image_id"] == name
        assert (await served.client.get(f"/images/{name}")).json()["image_id"] == name
        assert (await served.client.delete(f"/images/{name}")).status_code == 204
        assert error(await served.client.get(f"/images/{name}")) == (404, "image_not_found")


async def test_the_id_of_a_path_is_as_plain_as_any() -> None:
    async with serving() as served:
        replies = await asyncio.gather(
            *(served.client.get(f"/images/{name}") for name in ("a%20b", "%C3%A9", "a" * 129, "a%0A"))
        )
        for reply in replies:
            assert error(reply) == (422, "validation_error")


async def test_an_id_is_no_longer_in_a_long_body() -> None:
    async with serving() as served:
        reply = await served.post("/decode", {"image_id": "a" * 5000, **BOX})
        assert error(reply) == (422, "validation_error")
