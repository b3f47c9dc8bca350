"""POST /embed: every form of upload, names, content-addressing, and rejected uploads."""

import asyncio
import base64
import hashlib

import pytest

from tests.fakes import error, picture, serving, until

pytestmark = pytest.mark.usefixtures("either_service")

PNG = {"Content-Type": "image/png"}


def form(boundary: str, *parts: tuple[str, bytes]) -> bytes:
    """Build a multipart body from parts, each a Content-Disposition and data."""
    written = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + data + b"\r\n"
        for disposition, data in parts
    )
    return written + f"--{boundary}--\r\n".encode()


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (form, name)
        for form in ("image", "file", "image/png", "application/octet-stream", "base64", "data URL")
        for name in (None, "query", "body")
        if "/" not in form or name != "body"  # a raw body has no fields
    ],
)
async def test_every_form_of_upload_is_the_same_picture(form: str, name: str | None) -> None:
    data = picture(60, 40)
    params = {"image_id": "query"} if name == "query" else None
    in_body = {"image_id": "body"} if name == "body" else {}
    text = base64.b64encode(data).decode()
    async with serving() as served:
        if form in ("image", "file"):
            response = await served.client.post(
                "/embed", files={form: ("truck.png", data)}, data=in_body, params=params
            )
        elif form in ("base64", "data URL"):
            image = text if form == "base64" else f"data:image/png;base64,{text}"
            response = await served.client.post("/embed", json={"image": image, **in_body}, params=params)
        else:
            response = await served.client.post(
                "/embed", content=data, params=params, headers={"Content-Type": form}
            )
        assert response.status_code == 200, response.text
        assert response.json() == {
            "image_id": name or hashlib.sha256(data).hexdigest(),
            "width": 60,
            "height": 40,
            "model": "fake",
            "cached": False,
        }
        assert (await served.embed(data)).json()["cached"] is True
        assert served.segmenter.encoded == [[(40, 60)]]


async def test_a_large_upload_is_read_in_every_form_too() -> None:
    """Large uploads are parsed and hashed in worker threads, and base64 is decoded in pieces."""
    data = picture() + bytes(1_500_000)
    text = base64.b64encode(data).decode()
    async with serving() as served:
        replies = [
            await served.client.post("/embed", files={"image": data}),
            await served.client.post("/embed", json={"image": f"data:;base64,{text}"}),
            await served.embed(data),
        ]
        assert [reply.json()["image_id"] for reply in replies] == [hashlib.sha256(data).hexdigest()] * 3


async def test_two_names_of_one_picture_share_one_embedding() -> None:
    async with serving() as served:
        assert (await served.embed(picture(), "a")).json()["cached"] is False
        assert (await served.embed(picture(), "b")).json()["cached"] is True
        assert len(served.segmenter.encoded) == 1
        records = [(await served.client.get(f"/images/{name}")).json() for name in ("a", "b")]
        assert len(served.service.store.tiers.device) == 1
        assert served.service.store.tiers.device.used_bytes == records[0]["bytes"] == records[1]["bytes"]
        assert (await served.client.delete("/images/a")).status_code == 204
        assert (await served.click("b")).status_code == 200
        await served.client.delete("/images/b")
        assert served.service.store.tiers.device.used_bytes == 0


async def test_a_name_is_taken_until_it_is_replaced() -> None:
    async with serving() as served:
        await served.embed(picture(60, 40, shade=1), "truck")
        taken = await served.embed(picture(30, 20, shade=2), "truck")
        assert error(taken) == (409, "image_id_conflict")
        assert "'truck'" in taken.json()["error"]["message"]
        assert len(served.segmenter.encoded) == 1  # rejected before it was encoded
        again = await served.embed(picture(60, 40, shade=1), "truck")
        assert again.json()["cached"] is True

        other = picture(30, 20, shade=2)
        text = base64.b64encode(other).decode()
        named = {"image_id": "truck", "replace": "true"}
        for request in (
            {"params": named, "content": other, "headers": PNG},
            {"files": {"image": other}, "data": named},
            {"json": {"image": text, "image_id": "truck", "replace": True}},
        ):
            assert (await served.client.post("/embed", **request)).status_code == 200
            assert (await served.client.get("/images/truck")).json()["width"] == 30
            assert len(served.service.store.tiers.device) == 1  # the old picture has no name left
            await served.client.delete("/images/truck")
            await served.embed(picture(60, 40, shade=1), "truck")


async def test_a_name_taken_while_its_picture_was_encoded_is_a_conflict() -> None:
    async with serving() as served:
        served.segmenter.gate.clear()
        first = asyncio.create_task(served.embed(picture(shade=1), "truck"))
        second = asyncio.create_task(served.embed(picture(shade=2), "truck"))
        await until(lambda: len(served.service._encodings) == 2)
        served.segmenter.gate.set()
        statuses = sorted([(await first).status_code, (await second).status_code])
        assert statuses == [200, 409]


async def test_a_name_that_looks_like_a_content_id_is_refused() -> None:
    """It could pose as the SHA-256 of another picture."""
    data = picture()
    async with serving() as served:
        refused = await served.embed(data, "ab" * 32)
        assert error(refused) == (422, "validation_error")
        assert refused.json()["error"]["details"][0]["where"] == "image_id"
        own_id = hashlib.sha256(data).hexdigest()
        assert (await served.embed(data, own_id)).status_code == 200
        for end in ("percentile", "none", "0123456789abcdef"):
            refused = await served.embed(data, f"{own_id}-{end}")
            assert error(refused) == (422, "validation_error"), end
        fields = {"image_id": f"{own_id}-percentile", "stretch": "percentile"}
        read_so = await served.client.post("/embed", content=data, params=fields, headers=PNG)
        assert read_so.json()["image_id"] == f"{own_id}-percentile"
        assert (await served.embed(data, f"{own_id}-truck")).status_code == 200


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "x" * 129, "a\n"])
async def test_names_are_short_and_plain(name: str) -> None:
    text = base64.b64encode(picture()).decode()
    async with serving() as served:
        for response in (
            await served.client.post("/embed", params={"image_id": name}, content=picture(), headers=PNG),
            await served.client.post("/embed", files={"image": picture()}, data={"image_id": name}),
            await served.post("/embed", {"image": text, "image_id": name}),
        ):
            assert error(response) == (422, "validation_error")
            assert "image_id" in response.json()["error"]["details"][0]["where"]
        longest = "Az09._:-" * 16
        assert (await served.embed(picture(), longest)).json()["image_id"] == longest


@pytest.mark.parametrize("media_type", [None, "application/x-www-form-urlencoded", "text/plain", "video/mp4"])
async def test_what_is_no_picture_upload_is_told_how_to_be_one(media_type: str | None) -> None:
    async with serving() as served:
        headers = {"Content-Type": media_type} if media_type else {}
        response = await served.client.post("/embed", content=picture(), headers=headers)
        assert error(response) == (415, "unsupported_media_type")
        message = response.json()["error"]["message"]
        assert (media_type or "without Content-Type") in message
        assert "-H 'Content-Type: image/jpeg' --data-binary @truck.jpg" in message


BOUNDARY = "multipart/form-data; boundary=xyz"
WHOLE = form("xyz", ('name="image"; filename="a.png"', picture()))


@pytest.mark.parametrize(
    ("media_type", "body", "words"),
    [
        ("application/json", b"{", "not JSON"),
        ("application/json", b"", "not JSON"),
        ("application/json", b'{"image": "\xff"}', "not JSON"),
        (BOUNDARY, b"", "cut off"),
        (BOUNDARY, WHOLE[:-20], "cut off"),
        (BOUNDARY, b"no form at all", "not valid multipart"),
        ("multipart/form-data; boundary=other", WHOLE, "its boundary is not the one in the Content-Type"),
        (
            "multipart/form-data",
            WHOLE,
            "has no boundary. HTTP libraries write one into it: do not set this header",
        ),
    ],
)
async def test_a_broken_body_is_a_bad_request(media_type: str, body: bytes, words: str) -> None:
    async with serving() as served:
        response = await served.client.post("/embed", content=body, headers={"Content-Type": media_type})
        assert error(response) == (400, "bad_request")
        assert words in response.json()["error"]["message"]
        assert (await served.embed(picture())).status_code == 200


FILE = 'name="image"; filename="a.png"'


@pytest.mark.parametrize(
    ("parts", "where", "words"),
    [
        ([], "image", "0 pictures"),
        ([('name="picture"; filename="a.png"', picture())], "image", "0 pictures"),
        ([(FILE, picture()), ('name="file"; filename="b.png"', picture())], "image", "2 pictures"),
        ([('name="image"', b"truck.jpg")], "image", "image=@truck.jpg"),
        ([(FILE, picture()), ('name="replace"', b"perhaps")], "replace", "boolean"),
        ([(FILE, picture()), ('name="imageid"', b"truck")], "imageid", "unknown field"),
    ],
)
async def test_a_form_that_makes_no_sense_says_which_field(
    parts: list[tuple[str, bytes]], where: str, words: str
) -> None:
    async with serving() as served:
        response = await served.client.post(
            "/embed", content=form("xyz", *parts), headers={"Content-Type": BOUNDARY}
        )
        assert error(response) == (422, "validation_error")
        details = response.json()["error"]["details"]
        assert (details[0]["where"], words in details[0]["what"]) == (where, True)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "image"),
        ({"image": 5}, "image"),
        ({"image": "data:image/png,%89PNG"}, "image"),
        ({"image": "not base64"}, "image"),
        ({"image": "abcde"}, "image"),
        ({"image": "", "replace": "true"}, "replace"),
        ({"image": "", "imageid": "truck"}, "imageid"),
        ([], "body"),
    ],
)
async def test_json_that_makes_no_sense_says_which_field(body: object, where: str) -> None:
    async with serving() as served:
        response = await served.post("/embed", body)
        assert error(response) == (422, "validation_error")
        assert response.json()["error"]["details"][0]["where"] == where


async def test_unknown_query_parameters_are_refused() -> None:
    async with serving() as served:
        response = await served.client.post("/embed", params={"imageid": "x"}, content=picture(), headers=PNG)
        assert error(response) == (422, "validation_error")
        assert "imageid" in response.json()["error"]["message"]


@pytest.mark.parametrize("data", [b"", b"<html></html>", picture()[:-20], picture()[:60]])
async def test_what_is_no_whole_picture_is_refused_before_the_encoder(data: bytes) -> None:
    async with serving() as served:
        assert error(await served.embed(data)) == (422, "invalid_image")
        assert served.segmenter.encoded == []
        assert (await served.embed(picture())).json()["cached"] is False


async def test_server_timing_says_what_took_its_time() -> None:
    async with serving() as served:
        timing = (await served.embed(picture())).headers["server-timing"]
        stages = {part.split(";")[0] for part in timing.split(", ")}
        assert {"queue", "device", "picture"} <= stages
        assert all(float(part.split(";dur=")[1]) >= 0 for part in timing.split(", "))
