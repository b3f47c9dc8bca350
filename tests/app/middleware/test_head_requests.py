"""HEAD is answered as GET is, without the body, for every endpoint."""

import asyncio

import httpx
import pytest
from fastapi.routing import APIRoute

from app.__main__ import make_server
from app.listening import bind
from app.main import create_app
from app.settings import Settings
from tests.fakes import FakeSegmenter, Served, picture, serving, until
from tests.server import free_port
from tests.small_videos import clip

ITS_OWN = {"x-request-id", "date"}
PATHS = [
    "/healthz", "/readyz", "/model", "/cluster", "/images", "/images/truck", "/images/truck/embedding",
    "/images/truck/embedding?format=safetensors&dtype=float16", "/", "/page/main.js", "/docs", "/openapi.json",
    "/nowhere", "/images/unknown", "/images/unknown/embedding", "/images?limit=0", "/page/nothing.js",
    "/videos", "/videos/clip", "/videos/clip/frames/0", "/videos/unknown", "/videos/clip/frames/9",
    "/tracks", "/tracks/walk",
]  # fmt: skip


def headers_of(reply: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name not in ITS_OWN}


@pytest.mark.parametrize("path", PATHS)
async def test_head_has_the_status_and_the_headers_of_get(path: str) -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        await served.client.post("/videos?video_id=clip", files={"video": clip(frames=2)})
        get, head = await served.client.get(path), await served.client.head(path)
        assert (head.status_code, headers_of(head)) == (get.status_code, headers_of(get))
        assert head.content == b""
        assert int(head.headers["content-length"]) > 0


def test_every_endpoint_that_answers_get_is_tried() -> None:
    paths = {path.partition("?")[0] for path in PATHS}
    described = create_app(Settings()).openapi()["paths"]
    for path, methods in described.items():
        if "get" in methods and path != "/metrics":
            assert path.format(image_id="truck", video_id="clip", track_id="walk", n=0) in paths


async def metric(served: Served, name: str) -> str:
    lines = (await served.client.get("/metrics")).text.splitlines()
    return next(line.rpartition(" ")[2] for line in lines if line.startswith(name))


async def test_head_is_counted_as_head_under_its_route_with_no_bytes_sent() -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        assert (await served.client.head("/metrics")).status_code == 200
        await served.client.head("/images/truck/embedding")
        route = 'route="/images/{image_id}/embedding"'
        assert await metric(served, f'sam2_requests_total{{method="HEAD",{route}') == "1.0"
        assert await metric(served, f"sam2_sent_bytes_total{{{route}") == "0.0"


async def test_only_what_answers_get_answers_head() -> None:
    async with serving() as served:
        for path in ("/embed", "/decode", "/segment"):
            assert (await served.client.head(path)).status_code == 405
        refused = await served.client.post("/healthz")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        assert (await served.client.post("/page/main.js")).headers["allow"] == "GET, HEAD"


async def test_a_known_etag_is_answered_with_304() -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        etag = (await served.client.head("/images/truck/embedding")).headers["etag"]
        again = await served.client.head("/images/truck/embedding", headers={"If-None-Match": etag})
        assert again.status_code == 304


async def test_a_bug_is_answered_too() -> None:
    async with serving() as served:

        async def broken() -> None:
            raise RuntimeError

        served.app.router.routes.insert(0, APIRoute("/broken", broken))
        reply = await served.client.head("/broken")
        assert (reply.status_code, reply.content) == (500, b"")


async def test_a_real_server_sends_no_body_and_the_next_answer_is_whole() -> None:
    settings = Settings(workers=2, port=free_port())
    app = create_app(settings, FakeSegmenter())
    server = make_server(app, settings)
    serving = asyncio.create_task(server._serve(bind("127.0.0.1", settings.port)))
    try:
        await until(lambda: server.started and app.state.service._segmenter is not None)
        reader, writer = await asyncio.open_connection("127.0.0.1", settings.port)
        writer.write(b"HEAD /model HTTP/1.1\r\nHost: localhost\r\n\r\n")
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        heads = (await reader.read()).split(b"HTTP/1.1 200 OK\r\n")
        writer.close()
    finally:
        server.should_exit = True
        await serving
    _, model, health = heads
    assert model.endswith(b"\r\n\r\n")
    assert model.count(b"\r\n\r\n") == 1
    assert health.endswith(b'\r\n\r\n{"status":"ok"}')
