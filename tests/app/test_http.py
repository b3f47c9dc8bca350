"""What surrounds /embed and /decode: stored pictures, embeddings to take away, the model, health, figures, docs."""

import asyncio
import io
import logging
import re
import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy

from app.access import AccessMiddleware, Message, Receive, RequestIdFilter, Scope, Send, request_id
from app.main import create_app
from app.metrics import Metrics
from app.schemas import MOST_PROMPTS
from app.settings import Settings
from tests.fakes import FakeSegmenter, Served, error, picture, serving, until


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
        assert (await served.client.get("/images/truck")).json() == first  # looking is not using
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


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=many", "limt=5"])
async def test_a_wrong_query_is_refused(query: str) -> None:
    async with serving() as served:
        response = await served.client.get(f"/images?{query}")
        assert error(response) == (422, "validation_error")
        assert response.json()["error"]["details"][0]["where"] == f"query.{query.split('=')[0]}"


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
        assert again.content == response.content  # or the ETag is not a strong one


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


async def test_an_embedding_comes_only_in_the_forms_there_are() -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        for query in ("format=pt", "dtype=bfloat16", "dtpye=float16"):
            response = await served.client.get(f"/images/truck/embedding?{query}")
            assert error(response) == (422, "validation_error")
        assert error(await served.client.get("/images/other/embedding")) == (404, "image_not_found")


async def test_the_model_and_the_limits_are_told() -> None:
    settings = Settings(
        max_upload_mib=3,
        max_image_megapixels=2.5,
        max_prompts=7,
        deadline_s=9,
        device_cache_mib=11,
        workers=2,
    )
    async with serving(settings) as served:
        assert (await served.client.get("/model")).json() == {
            "model": "fake",
            "variant": "sam2.1_hiera_tiny",
            "fingerprint": FakeSegmenter.fingerprint,
            "device": "imagined",
            "dtype": "float32",
            "mask_size": [32, 32],
            "limits": {
                "max_upload_mib": 3,
                "max_image_megapixels": 2.5,
                "max_prompts": 7,
                "max_points": 256,
                "deadline_s": 9.0,
                "device_cache_mib": 11,
                "host_cache_mib": 4096,
                "disk_cache_mib": 20480,
                "image_ttl_s": 0.0,
            },
        }


def test_a_setting_cannot_allow_more_prompts_than_a_request_can_hold() -> None:
    assert Settings(max_prompts=MOST_PROMPTS).max_prompts == MOST_PROMPTS
    with pytest.raises(ValueError, match="max_prompts"):
        Settings(max_prompts=MOST_PROMPTS + 1)


async def loading(load: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The app with `load` in the place of loading, and a client; not waited for."""
    monkeypatch.setattr("app.main.load_segmenter", load)
    app = create_app(Settings(workers=2))
    return app, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sam2")


async def test_until_the_model_is_loaded_and_warm_everything_but_healthz_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gates = {"load": threading.Event(), "warm": threading.Event()}
    reached = []

    class Slow(FakeSegmenter):
        def warm_up(self) -> None:
            reached.append("warm")
            gates["warm"].wait(20)

    def load(_: Settings) -> FakeSegmenter:
        gates["load"].wait(20)
        return Slow()

    app, client = await loading(load, monkeypatch)
    async with app.router.lifespan_context(app), client:
        served = Served(app, client, FakeSegmenter())
        for gate in ("load", "warm"):
            if gate == "warm":
                await until(lambda: reached == ["warm"])
            assert (await client.get("/healthz")).json() == {"status": "ok"}
            assert (await client.get("/metrics")).status_code == 200
            for response in (
                await client.get("/readyz"),
                await client.get("/model"),
                await client.get("/images"),
                await served.embed(picture()),
                await served.click("truck"),
            ):
                assert error(response) == (503, "not_ready")
                assert "loading" in response.json()["error"]["message"]
                assert int(response.headers["retry-after"]) >= 1
            gates[gate].set()
        await until(lambda: app.state.service._segmenter is not None)
        response = await client.get("/readyz")
        assert (response.status_code, response.json()) == (200, {"status": "ready"})


async def test_a_model_that_cannot_be_loaded_is_told_to_all_who_ask(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(_: Settings) -> FakeSegmenter:
        raise ValueError("device 'tpu' cannot be used here")

    app, client = await loading(load, monkeypatch)
    async with app.router.lifespan_context(app), client:
        await until(lambda: app.state.service.failure is not None)
        for path in ("/readyz", "/model"):
            response = await client.get(path)
            assert error(response) == (503, "not_ready")
            assert "device 'tpu' cannot be used here" in response.json()["error"]["message"]
        assert (await client.get("/healthz")).status_code == 200
    assert "device 'tpu' cannot be used here" in caplog.text


async def test_stopping_while_the_model_loads_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def load(_: Settings) -> FakeSegmenter:
        gate.wait(20)
        return FakeSegmenter()

    app, client = await loading(load, monkeypatch)
    async with client, app.router.lifespan_context(app):
        assert error(await client.get("/readyz")) == (503, "not_ready")
        await until(lambda: app.state.service._device.alive)
        asyncio.get_running_loop().call_later(0.05, gate.set)
    assert not app.state.service._device.alive


async def test_a_broken_device_thread_is_not_ready() -> None:
    async with serving() as served:
        await served.service._device.close()
        response = await served.client.get("/readyz")
        assert error(response) == (503, "not_ready")
        assert "restarted" in response.json()["error"]["message"]


async def test_figures_for_prometheus() -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        await served.embed(picture(), "truck")
        await served.click("truck")
        await served.click("unknown")
        await served.client.get("/images/truck")
        await served.client.get("/nothing/here")
        response = await served.client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        figures = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if line[0] != "#")
        for name, value in {
            'sam2_requests_total{method="POST",route="/embed",status="200"}': 2,
            'sam2_requests_total{method="POST",route="/decode",status="200"}': 1,
            'sam2_requests_total{method="POST",route="/decode",status="404"}': 1,
            'sam2_requests_total{method="GET",route="/images/{image_id}",status="200"}': 1,
            'sam2_requests_total{method="GET",route="unknown",status="404"}': 1,
            'sam2_request_seconds_count{route="/embed"}': 2,
            'sam2_rejections_total{code="image_not_found"}': 1,
            'sam2_cache_lookups_total{outcome="hit"}': 1,
            'sam2_cache_lookups_total{outcome="miss"}': 1,
            'sam2_evictions_total{tier="device"}': 0,
            'sam2_cache_hits_total{tier="device"}': 2,
            'sam2_cache_images{tier="device"}': 1,
            'sam2_cache_bytes{tier="device"}': 4 * 4 * (8 + 4 * 2 + 4 * 4),
            'sam2_cache_bytes{tier="disk"}': 0,
            "sam2_waiting_prompts": 0,
            "sam2_waiting_images": 0,
            'sam2_batch_size_sum{queue="encode"}': 1,
            'sam2_batch_size_sum{queue="decode"}': 1,
            'sam2_stage_seconds_count{stage="decode_batch"}': 1,
            'sam2_stage_seconds_count{stage="device"}': 2,
        }.items():
            assert float(figures[name]) == value, name


async def test_a_request_keeps_its_id_or_is_given_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(RequestIdFilter())
    async with serving() as served:
        named = await served.client.get("/images", headers={"X-Request-ID": "job-7/a=b+c:d"})
        assert named.headers["x-request-id"] == "job-7/a=b+c:d"
        refused = await served.client.get("/images/none", headers={"X-Request-ID": "job-8"})
        assert refused.headers["x-request-id"] == "job-8"
        made = set()
        for unusable in ({}, {"X-Request-ID": "a b"}, {"X-Request-ID": "x" * 129}, {"X-Request-ID": ""}):
            response = await served.client.get("/images", headers=unusable)
            assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
            made.add(response.headers["x-request-id"])
        assert len(made) == 4
        await served.client.get("/healthz", headers={"X-Request-ID": "quiet"})
    lines = {record.request_id: record.getMessage() for record in caplog.records}  # type: ignore[attr-defined]
    assert re.fullmatch(r"GET /images 200 \d+\.\d ms", lines["job-7/a=b+c:d"])
    assert lines["job-8"].startswith("GET /images/none 404")
    assert "quiet" not in lines  # a line every second for a health check hides the others
    assert request_id.get() == "-"


async def test_unknown_paths_and_methods_get_the_same_kind_of_error() -> None:
    async with serving() as served:
        nowhere = await served.client.get("/nowhere")
        assert error(nowhere) == (404, "not_found")
        assert "/nowhere" in nowhere.json()["error"]["message"]
        wrong = await served.client.get("/embed")
        assert error(wrong) == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST"
        assert error(await served.client.post("/images/truck")) == (405, "method_not_allowed")
        assert error(await served.client.post("/embed/")) == (
            404,
            "not_found",
        )  # no redirect, which has no body


async def test_a_fault_of_the_server_is_answered_logged_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(RequestIdFilter())
    async with serving() as served:
        monkeypatch.setattr(served.service, "store", None)
        response = await served.client.get("/images/truck", headers={"X-Request-ID": "job-9"})
        assert error(response) == (500, "internal_error")
        assert "NoneType" not in response.text
        assert response.headers["x-request-id"] == "job-9"
        monkeypatch.undo()
        figures = (await served.client.get("/metrics")).text
        assert 'sam2_requests_total{method="GET",route="/images/{image_id}",status="500"} 1.0' in figures
        assert 'sam2_rejections_total{code="internal_error"} 1.0' in figures
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.request_id == "job-9"  # type: ignore[attr-defined]
    assert record.exc_info is not None


async def test_a_fault_in_the_middle_of_a_reply_is_left_to_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The status is out; a second one would be read as a part of the body."""
    sent: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError("in the middle")

    async def on_bug(scope: Scope, receive: Receive, send: Send) -> None:
        sent.append("on_bug")

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    middleware = AccessMiddleware(app, metrics=Metrics(), on_bug=on_bug)
    with pytest.raises(ZeroDivisionError):
        await middleware({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    assert sent == ["http.response.start"]
    assert "in the middle" in caplog.text


async def test_the_description_of_the_api_is_whole_and_its_examples_work() -> None:
    async with serving() as served:
        assert "swagger" in (await served.client.get("/docs")).text
        document = (await served.client.get("/openapi.json")).json()
        assert (await served.client.get("/openapi.json")).json() == document
        schemas = document["components"]["schemas"]
        for name in re.findall(
            r'"#/components/schemas/([^"]+)"', (await served.client.get("/openapi.json")).text
        ):
            assert name in schemas
        assert set(document["paths"]) == {
            "/embed",
            "/decode",
            "/images",
            "/images/{image_id}",
            "/images/{image_id}/embedding",
            "/model",
            "/healthz",
            "/readyz",
            "/metrics",
        }
        for operations in document["paths"].values():
            for operation in operations.values():
                assert operation["responses"]["default"]["content"]["application/json"]["schema"] == {
                    "$ref": "#/components/schemas/ErrorReply"
                }
                assert "422" not in operation["responses"]  # FastAPI's own shape, which nobody gets
        bodies = {
            path: document["paths"][path]["post"]["requestBody"]["content"] for path in ("/embed", "/decode")
        }
        assert set(bodies["/embed"]) == {
            "multipart/form-data",
            "image/*",
            "application/octet-stream",
            "application/json",
        }
        for path, name in (("/embed", "EmbedBody"), ("/decode", "DecodeBody")):
            assert bodies[path]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{name}"}
            for example in schemas[name]["examples"]:
                response = await served.post(path, example)
                assert response.status_code == 200, response.text
