"""Everything around the endpoints: request ids, uniform errors, internal errors, /model, API documentation."""

import base64
import json
import logging
import re

import httpx
import pytest

from app.middleware.access import AccessMiddleware, Message, Receive, RequestIdFilter, Scope, Send, request_id
from app.routes.schemas import MOST_PROMPTS, EmbedFields
from app.settings import Settings
from app.telemetry.metrics import Metrics
from model.everything.defaults import default_thresholds
from tests.fakes import FakeSegmenter, error, serving


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
            "variant": "builtin",
            "fingerprint": FakeSegmenter.fingerprint,
            "device": "imagined",
            "dtype": "float32",
            "mask_size": [32, 32],
            "everything": {
                "pred_iou_thresh": default_thresholds("builtin").pred_iou_thresh,
                "stability_score_thresh": default_thresholds("builtin").stability_score_thresh,
                "box_nms_thresh": default_thresholds("builtin").box_nms_thresh,
            },
            "limits": {
                "max_upload_mib": 3,
                "max_image_megapixels": 2.5,
                "max_video_mib": 256,
                "max_video_frames": 10_000,
                "max_prompts": 7,
                "max_points": 256,
                "deadline_s": 9.0,
                "everything_deadline_s": 300.0,
                "device_cache_mib": 11,
                "host_cache_mib": 0,
                "disk_cache_mib": 20480,
                "image_ttl_s": 0.0,
            },
            "tracks": {
                "tracker": "mask_prompt",
                "max_tracks": 1000,
                "max_frames": 10_000,
                "max_objects": 64,
                "max_prompts": 4096,
                "bytes_per_object_and_frame": 4 * 32 * 32,
                "memory_mib": Settings().track_memory_mib,
            },
        }


def test_a_setting_cannot_allow_more_prompts_than_a_request_can_hold() -> None:
    most = Settings(max_prompts=MOST_PROMPTS, max_waiting_prompts=MOST_PROMPTS)
    assert most.max_prompts == MOST_PROMPTS
    with pytest.raises(ValueError, match="max_prompts"):
        Settings(max_prompts=MOST_PROMPTS + 1)


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
    assert "quiet" not in lines  # health checks every few seconds would hide other lines
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
        )  # not a redirect, which has no body


async def test_a_wrong_method_is_told_all_that_a_path_has() -> None:
    async with serving() as served:
        for path, methods in {
            "/images/truck": "GET, HEAD, DELETE",
            "/videos": "GET, HEAD, POST",
            "/tracks": "GET, HEAD, POST",
            "/tracks/t/objects/1": "DELETE",
            "/docs": "GET, HEAD",
            "/client/index.js": "GET, HEAD",
        }.items():
            reply = await served.client.patch(path)
            assert error(reply) == (405, "method_not_allowed")
            assert reply.headers["allow"] == methods


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
    """The status has been sent; a second reply would be read as part of the body."""
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
        page = (await served.client.get("/docs")).text
        assert "swagger" in page
        document = (await served.client.get("/openapi.json")).json()
        # Below the path of a reverse proxy the page asked the proxy's root, and so did "Try it out".
        beside = httpx.URL("https://proxy.example/sam2/docs").join(re.search("url: '(.+)'", page)[1])
        assert beside == "https://proxy.example/sam2/openapi.json"
        assert beside.join(document["servers"][0]["url"]) == "https://proxy.example/sam2/"
        assert (await served.client.get("/openapi.json")).json() == document
        schemas = document["components"]["schemas"]
        for name in re.findall(
            r'"#/components/schemas/([^"]+)"', (await served.client.get("/openapi.json")).text
        ):
            assert name in schemas
        assert set(document["paths"]) == {
            "/embed",
            "/decode",
            "/segment",
            "/everything",
            "/images",
            "/images/{image_id}",
            "/images/{image_id}/embedding",
            "/videos",
            "/videos/{video_id}",
            "/videos/{video_id}/frames/{n}",
            "/tracks",
            "/tracks/{track_id}",
            "/tracks/{track_id}/prompts",
            "/tracks/{track_id}/propagate",
            "/tracks/{track_id}/objects/{object}",
            "/tracks/{track_id}/objects/{object}/prompts/{frame}",
            "/propagate",
            "/model",
            "/cluster",
            "/healthz",
            "/readyz",
            "/metrics",
        }
        for operations in document["paths"].values():
            for operation in operations.values():
                assert operation["responses"]["default"]["content"]["application/json"]["schema"] == {
                    "$ref": "#/components/schemas/ErrorReply"
                }
                assert "422" not in operation["responses"]  # FastAPI's own form, which no client gets
        bodies = {
            path: document["paths"][path]["post"]["requestBody"]["content"]
            for path in ("/embed", "/decode", "/everything", "/tracks", "/propagate")
        }
        assert set(bodies["/embed"]) == {
            "multipart/form-data",
            "image/*",
            "application/octet-stream",
            "application/json",
        }
        form = document["paths"]["/segment"]["post"]["requestBody"]["content"]["multipart/form-data"]
        assert {"image", "image_id", "prompts", "point_coords", "mask_format"} <= set(
            form["schema"]["properties"]
        )
        # What a form may say of its picture is the same everywhere.
        forms = [form, *(bodies[path]["multipart/form-data"] for path in ("/embed", "/everything"))]
        assert all(
            {"image", *EmbedFields.model_fields} <= set(each["schema"]["properties"]) for each in forms
        )
        fields = {name: json.dumps(value) for name, value in form["example"].items()}
        picture_file = base64.b64decode(schemas["EmbedBody"]["examples"][0]["image"])
        response = await served.client.post("/segment", files={"image": picture_file}, data=fields)
        assert response.status_code == 200, response.text
        for path, name in (
            ("/embed", "EmbedBody"),
            ("/decode", "DecodeBody"),
            ("/everything", "EverythingBody"),
            ("/tracks", "TrackBody"),
            ("/propagate", "PropagateOnceBody"),
        ):
            assert bodies[path]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{name}"}
            for example in schemas[name]["examples"]:
                response = await served.post(path, example)
                assert response.status_code == 200, response.text


async def test_every_reply_with_a_body_is_described() -> None:
    """A client made from the description reads what is named there, and drops everything else."""
    async with serving() as served:
        paths = (await served.client.get("/openapi.json")).json()["paths"]
        silent = {
            (path, status)
            for path, methods in paths.items()
            for method in methods.values()
            for status, reply in method["responses"].items()
            if not reply.get("content") and status not in ("204", "304")
        }
        assert silent == set()
        operations = [method for methods in paths.values() for method in methods.values()]
        assert {tag for each in operations for tag in each["tags"]} == {
            "pictures",
            "masks",
            "videos",
            "tracks",
            "server",
        }
        assert paths["/images/{image_id}"]["delete"]["summary"] == "Forget a picture"
        names = [each["operationId"] for each in operations]
        assert len(names) == len(set(names))
        assert {paths["/embed"]["post"]["operationId"], paths["/decode"]["post"]["operationId"]} == {
            "embed",
            "decode",
        }
        (kind,) = paths["/metrics"]["get"]["responses"]["200"]["content"]
        assert (await served.client.get("/metrics")).headers["content-type"].startswith(kind)
