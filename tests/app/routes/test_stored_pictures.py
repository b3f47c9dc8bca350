"""/images: look up, list and delete stored pictures, and download their embeddings."""

import io
import json
import re
import time
from base64 import b64encode
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from app.settings import Settings
from tests.fakes import error, picture, serving

pytestmark = pytest.mark.usefixtures("either_service")


async def test_a_stored_picture_can_be_looked_up() -> None:
    began = time.time()
    async with serving() as served:
        await served.embed(picture(60, 40), "truck")
        first = (await served.client.get("/images/truck")).json()
        assert began <= first["created"] <= first["used"] <= time.time()
        fixed = {name: value for name, value in first.items() if name not in ("created", "used")}
        assert fixed == {
            "image_id": "truck",
            "width": 60,
            "height": 40,
            "model": "fake",
            "bytes": served.service.store.tiers.device.used_bytes,
            "tiers": ["device"],
        }
        assert first["bytes"] == 4 * 4 * (8 + 4 * 2 + 4 * 4)
        assert (await served.client.get("/images/truck")).json() == first  # a lookup does not count as a use
        await served.click("truck")
        second = (await served.client.get("/images/truck")).json()
        assert second["used"] > first["used"]
        assert second["created"] == first["created"]
        assert error(await served.client.get("/images/other")) == (404, "image_not_found")


async def test_stored_pictures_are_listed_newest_first_page_by_page() -> None:
    async with serving() as served:
        assert (await served.client.get("/images")).json() == {"images": [], "next": None}
        for name in "abcde":
            await served.embed(picture(shade=ord(name)), name)
        seen: list[list[str]] = []
        page: dict[str, Any] = {"next": None}
        while not seen or page["next"]:
            after = {"after": page["next"]} if page["next"] else {}
            page = (await served.client.get("/images", params={"limit": 2, **after})).json()
            seen.append([image["image_id"] for image in page["images"]])
        assert seen == [["e", "d"], ["c", "b"], ["a"]]
        whole = (await served.client.get("/images", params={"limit": 5})).json()
        assert (len(whole["images"]), whole["next"]) == (5, None)
        assert whole["images"][0] == (await served.client.get("/images/e")).json()
        assert error(await served.client.get("/images", params={"after": "x"})) == (404, "image_not_found")


async def test_a_page_follows_a_picture_that_was_deleted_or_named_anew_meanwhile() -> None:
    """Whoever deletes all that a page lists deletes its last one, too."""
    async with serving() as served:
        for name in "abcde":
            await served.embed(picture(shade=ord(name)), name)
        query: dict[str, Any] = {"limit": 2}
        for expected in (["e", "d"], ["c", "b"], ["a"]):
            page = (await served.client.get("/images", params=query)).json()
            assert [image["image_id"] for image in page["images"]] == expected
            for name in expected:
                assert (await served.client.delete(f"/images/{name}")).status_code == 204
            await served.embed(picture(shade=9), expected[-1])  # again, with another place
            query["after"] = page["next"]
        assert page["next"] is None


@pytest.mark.parametrize("after", ["1~", "x~a", "~a", "nan~a", "inf~a", "-inf~a", "a", ""])
async def test_a_page_follows_only_what_there_can_be(after: str) -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        reply = await served.client.get("/images", params={"after": after})
        if after == "1~":
            assert reply.json() == {"images": [], "next": None}
        else:
            assert error(reply) == (404, "image_not_found")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=many", "limt=5"])
async def test_a_wrong_query_is_refused(query: str) -> None:
    async with serving() as served:
        response = await served.client.get(f"/images?{query}")
        assert error(response) == (422, "validation_error")
        assert response.json()["error"]["details"][0]["where"] == f"query.{query.split('=')[0]}"


async def test_a_query_of_thousands_of_parameters_is_one_error() -> None:
    """An error for each held the event loop for half a second."""
    async with serving() as served:
        query = "&".join(f"p{number}=" for number in range(5000))
        for response in (
            await served.client.get(f"/images?{query}"),
            await served.client.post(f"/decode?{query}"),
        ):
            assert error(response) == (422, "validation_error")
            assert len(response.json()["error"]["details"]) == 1


async def test_a_deleted_picture_is_forgotten() -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        for _ in range(2):
            response = await served.client.delete("/images/truck")
            assert (response.status_code, response.content) == (204, b"")
        assert error(await served.click("truck")) == (404, "image_not_found")
        assert served.service.store.tiers.in_memory() == set()
        assert (await served.embed(picture(), "truck")).json()["cached"] is False


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("file_format", ["npz", "safetensors"])
async def test_an_embedding_can_be_taken_away(file_format: str, dtype: str) -> None:
    async with serving() as served:
        await served.embed(picture(shade=51), "a:truck")
        query = f"?format={file_format}&dtype={dtype}"
        response = await served.client.get(f"/images/a:truck/embedding{query}")
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.headers["x-sam2-model"] == "fake"
        assert f'filename="a_truck.{file_format}"' in response.headers["content-disposition"]
        if file_format == "npz":
            maps = dict(np.load(io.BytesIO(response.content)))
        else:
            maps = safetensors.numpy.load(response.content)
        assert {name: array.shape for name, array in maps.items()} == {
            "image_embed": (1, 8, 2, 2),
            "high_res_feats_0": (1, 1, 8, 8),
            "high_res_feats_1": (1, 2, 4, 4),
        }
        assert {array.dtype.name for array in maps.values()} == {dtype}
        assert [maps[name].flat[0] for name in sorted(maps)] == [1, 2, 51]

        again = await served.client.get(f"/images/a:truck/embedding{query}")
        assert again.headers["etag"] == response.headers["etag"]
        assert again.content == response.content  # required by a strong ETag


async def test_an_embedding_names_its_model_also_across_origins() -> None:
    """A decoder of other weights gives masks that only look right."""
    async with serving(Settings(workers=2, cors_origins="https://tool.example")) as served:
        await served.embed(picture(), "truck")
        origin = {"Origin": "https://tool.example"}
        response = await served.client.get("/images/truck/embedding?format=safetensors", headers=origin)
        model = (await served.client.get("/model")).json()
        assert response.headers["x-sam2-model"] == model["model"]
        assert response.headers["x-sam2-fingerprint"] == model["fingerprint"]
        exposed = response.headers["access-control-expose-headers"].lower().replace(" ", "").split(",")
        assert {"x-sam2-model", "x-sam2-fingerprint", "etag"} <= set(exposed)
        length = int.from_bytes(response.content[:8], "little")
        assert json.loads(response.content[8 : 8 + length])["__metadata__"] == {
            "model": model["model"],
            "fingerprint": model["fingerprint"],
            "width": "60",
            "height": "40",
        }
        for _ in range(5):  # safetensors itself writes metadata in an order of chance
            again = await served.client.get("/images/truck/embedding?format=safetensors", headers=origin)
            assert again.content == response.content


async def test_an_embedding_that_the_client_has_is_not_sent_again() -> None:
    path = "/images/truck/embedding"
    async with serving() as served:
        await served.embed(picture(shade=1), "truck")
        etag = (await served.client.get(path)).headers["etag"]
        assert re.fullmatch(r'"[^"]+"', etag)
        for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            response = await served.client.get(path, headers={"If-None-Match": known})
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"] == etag
        others = [
            (await served.client.get(path + query)).headers["etag"]
            for query in ("?dtype=float16", "?format=safetensors")
        ]
        await served.client.delete("/images/truck")
        await served.embed(picture(shade=2), "truck")
        response = await served.client.get(path, headers={"If-None-Match": etag})
        assert response.status_code == 200
        assert len({etag, *others, response.headers["etag"]}) == 4


async def test_a_file_that_is_read_in_another_way_has_another_embedding() -> None:
    """Else a page that asks for what has changed would draw on with the maps of the other reading."""
    path = "/images/scan/embedding"
    async with serving() as served:
        etags = []
        for stretch in ("range", "percentile", "none"):
            sent = {
                "image": b64encode(picture()).decode(),
                "image_id": "scan",
                "stretch": stretch,
                "replace": True,
            }
            assert (await served.post("/embed", sent)).status_code == 200
            response = await served.client.get(path, headers={"If-None-Match": ", ".join(etags)})
            assert response.status_code == 200
            etags.append(response.headers["etag"])


async def test_an_embedding_comes_only_in_the_forms_there_are() -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        for query in ("format=pt", "dtype=bfloat16", "dtpye=float16"):
            response = await served.client.get(f"/images/truck/embedding?{query}")
            assert error(response) == (422, "validation_error")
        assert error(await served.client.get("/images/other/embedding")) == (404, "image_not_found")
