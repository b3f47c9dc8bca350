"""Two tenants and every endpoint: none lets Bert see, decode, delete or take Anna's pictures.

Bert knows everything that can be known from outside: Anna's name for her picture, its SHA-256, and its bytes.
If a new route of the app has no proof in this file, `test_every_route_has_its_proof` fails.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from app.main import create_app
from app.settings import Settings
from tests.app.middleware.test_keys import ANNA, BERT, bearer, settings
from tests.fakes import Served, error, picture, serving, until
from tests.small_videos import clip

pytestmark = pytest.mark.usefixtures("either_service")

HERS = picture(shade=77)
DIGEST = hashlib.sha256(HERS).hexdigest()
NAMES = ("annas-truck", DIGEST)
"""The two ids of Anna's picture: her own name, and its SHA-256."""
CLIP = clip(frames=2)
CLIP_DIGEST = hashlib.sha256(CLIP).hexdigest()
CLICK = {"point_coords": [[30, 20]], "point_labels": [1]}

Proof = Callable[["Tenants"], Awaitable[None]]
PROOFS: dict[tuple[str, str], Proof] = {}


class Tenants:
    """A server with Anna's picture, and functions for requests of both tenants."""

    def __init__(self, served: Served) -> None:
        self.served = served

    async def ask(self, key: str, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request with a key."""
        headers = {**bearer(key), **request.pop("headers", {})}
        return await self.served.client.request(method, path, headers=headers, **request)

    async def bert(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request with Bert's key."""
        return await self.ask(BERT, method, path, **request)

    async def upload(self, key: str, name: str | None = None) -> httpx.Response:
        """Upload Anna's bytes with any key."""
        return await self.ask(
            key,
            "POST",
            "/embed",
            params={"image_id": name} if name else None,
            content=HERS,
            headers={"Content-Type": "image/png"},
        )

    async def upload_videos(self, key: str) -> None:
        """Upload a video by name and without one."""
        for query in (f"?video_id={NAMES[0]}", ""):
            reply = await self.ask(key, "POST", f"/videos{query}", files={"video": CLIP})
            assert reply.status_code == 200, reply.text

    async def anna_has_all_of_it(self) -> None:
        """Check that both of her names decode, without another run of the encoder."""
        encoded = len(self.served.segmenter.encoded)
        for name in NAMES:
            reply = await self.ask(ANNA, "POST", "/decode", json={"image_id": name, **CLICK})
            assert reply.status_code == 200, reply.text
        assert len(self.served.segmenter.encoded) == encoded


@asynccontextmanager
async def anna_has_a_picture(**others: object) -> AsyncIterator[Tenants]:
    """Run a server where Anna has uploaded a picture twice: by name, and without one."""
    async with serving(settings(**others)) as served:
        tenants = Tenants(served)
        assert (await tenants.upload(ANNA, NAMES[0])).json()["cached"] is False
        assert (await tenants.upload(ANNA)).json() == {
            "image_id": DIGEST,
            "width": 60,
            "height": 40,
            "model": "fake",
            "cached": True,  # two names of one tenant's picture share one embedding
        }
        yield tenants


def proves(method: str, path: str) -> Callable[[Proof], Proof]:
    """Register a function as the proof of a route."""

    def note(proof: Proof) -> Proof:
        PROOFS[method, path] = proof
        return proof

    return note


@proves("POST", "/embed")
async def _embed(tenants: Tenants) -> None:
    """For Bert, Anna's bytes are new: `cached` is false, the encoder runs, and his id is his own. Hers stay."""
    reply = await tenants.upload(BERT)
    assert (reply.json()["image_id"], reply.json()["cached"]) == (DIGEST, False)
    assert len(tenants.served.segmenter.encoded) == 2  # so it takes as long as for a new picture
    mine = await tenants.ask(
        BERT,
        "POST",
        "/embed",
        params={"image_id": NAMES[0], "replace": "true"},
        content=picture(shade=1),
        headers={"Content-Type": "image/png"},
    )
    assert mine.status_code == 200  # a conflict would show that her name exists; hers is not replaced
    for name in NAMES:
        assert (await tenants.bert("DELETE", f"/images/{name}")).status_code == 204


@proves("POST", "/decode")
async def _decode(tenants: Tenants) -> None:
    unknown = await tenants.bert("POST", "/decode", json={"image_id": "nobodys", **CLICK})
    for name in NAMES:
        reply = await tenants.bert("POST", "/decode", json={"image_id": name, **CLICK})
        assert error(reply) == (404, "image_not_found")
        assert reply.text.replace(name, "nobodys") == unknown.text


@proves("POST", "/segment")
async def _segment(tenants: Tenants) -> None:
    """As with a new picture, it is encoded for Bert; hers stays."""
    encoded = len(tenants.served.segmenter.encoded)
    form = {"point_coords": "[[30, 20]]", "point_labels": "[1]"}
    reply = await tenants.bert("POST", "/segment", files={"image": HERS}, data=form)
    assert (reply.status_code, reply.json()["image_id"]) == (200, DIGEST)
    assert len(tenants.served.segmenter.encoded) == encoded + 1
    assert (await tenants.bert("DELETE", f"/images/{DIGEST}")).status_code == 204


@proves("POST", "/everything")
async def _everything(tenants: Tenants) -> None:
    """Her names are unknown to Bert, and her picture is encoded for him; hers stays."""
    unknown = await tenants.bert("POST", "/everything", json={"image_id": "nobodys", "points_per_side": 2})
    for name in NAMES:
        reply = await tenants.bert("POST", "/everything", json={"image_id": name, "points_per_side": 2})
        assert error(reply) == (404, "image_not_found")
        assert reply.text.replace(name, "nobodys") == unknown.text
    encoded = len(tenants.served.segmenter.encoded)
    reply = await tenants.bert("POST", "/everything", files={"image": HERS}, data={"points_per_side": "2"})
    assert (reply.status_code, reply.json()["image_id"]) == (200, DIGEST)
    assert len(tenants.served.segmenter.encoded) == encoded + 1
    assert (await tenants.bert("DELETE", f"/images/{DIGEST}")).status_code == 204


@proves("GET", "/decode/stream")
async def _not_upgraded(tenants: Tenants) -> None:
    """It is the same for everybody: nothing is looked up."""
    assert (await tenants.bert("GET", "/decode/stream")).status_code == 426


def berts_websocket(path: str) -> dict[str, Any]:
    """The scope of a WebSocket with Bert's key."""
    return {
        "type": "websocket",
        "path": path,
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in bearer(BERT).items()],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "scheme": "ws",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }


@proves("WEBSOCKET", "/{path:path}")
async def _no_websocket(tenants: Tenants) -> None:
    """It is the same for everybody: nothing is looked up."""
    heard: list[Any] = []

    async def say() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def hear(message: Any) -> None:
        heard.append(message)

    for name in ("nobodys", NAMES[0]):
        await tenants.served.app(berts_websocket(f"/images/{name}"), say, hear)
    assert [message["status"] for message in heard if "status" in message] == [404, 404]


@proves("WEBSOCKET", "/decode/stream")
async def _stream(tenants: Tenants) -> None:
    """Each of her names gets the same answer as an unknown name."""
    heard: list[dict[str, Any]] = []
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def hear(message: Any) -> None:
        heard.append(message)

    talking = asyncio.create_task(tenants.served.app(berts_websocket("/decode/stream"), said.get, hear))
    said.put_nowait({"type": "websocket.connect"})
    for number, name in enumerate(("nobodys", *NAMES)):
        text = json.dumps({"tag": 0, "image_id": name, **CLICK})
        said.put_nowait({"type": "websocket.receive", "text": text})
        await until(lambda: len(heard) == number + 2)  # noqa: B023  # it is waited for here
    said.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await talking
    unknown, *hers = [message["text"] for message in heard[1:]]
    assert json.loads(unknown)["error"]["code"] == "image_not_found"
    for name, answer in zip(NAMES, hers, strict=True):
        assert answer.replace(name, "nobodys") == unknown


@proves("GET", "/images")
async def _list(tenants: Tenants) -> None:
    assert (await tenants.bert("GET", "/images")).json() == {"images": [], "next": None}
    for name in NAMES:
        reply = await tenants.bert("GET", "/images", params={"after": name})
        assert error(reply) == (404, "image_not_found")


@proves("GET", "/images/{image_id}")
async def _describe(tenants: Tenants) -> None:
    for name in NAMES:
        assert error(await tenants.bert("GET", f"/images/{name}")) == (404, "image_not_found")


@proves("DELETE", "/images/{image_id}")
async def _delete(tenants: Tenants) -> None:
    """Each of her names gets the same answer as an unknown name."""
    unknown = await tenants.bert("DELETE", "/images/nobodys")
    for name in NAMES:
        reply = await tenants.bert("DELETE", f"/images/{name}")
        assert (reply.status_code, reply.content) == (unknown.status_code, unknown.content) == (204, b"")


@proves("GET", "/images/{image_id}/embedding")
async def _embedding(tenants: Tenants) -> None:
    """The reply is 404 even with the ETag of her copy, which a 304 would confirm."""
    hers = await tenants.ask(ANNA, "GET", f"/images/{DIGEST}/embedding")
    for name in NAMES:
        for headers in ({}, {"If-None-Match": hers.headers["etag"]}, {"If-None-Match": "*"}):
            reply = await tenants.bert("GET", f"/images/{name}/embedding", headers=headers)
            assert error(reply) == (404, "image_not_found")


@proves("POST", "/videos")
async def _add_video(tenants: Tenants) -> None:
    """Bert may have videos of the same names and bytes; hers stay."""
    await tenants.upload_videos(ANNA)
    await tenants.upload_videos(BERT)
    for name in (NAMES[0], CLIP_DIGEST):
        assert (await tenants.bert("DELETE", f"/videos/{name}")).status_code == 204
        assert (await tenants.ask(ANNA, "GET", f"/videos/{name}/frames/0")).status_code == 200


@proves("GET", "/videos")
async def _list_videos(tenants: Tenants) -> None:
    await tenants.upload_videos(ANNA)
    assert (await tenants.bert("GET", "/videos")).json() == {"videos": [], "next": None}
    reply = await tenants.bert("GET", "/videos", params={"after": NAMES[0]})
    assert error(reply) == (404, "video_not_found")


@proves("GET", "/videos/{video_id}")
@proves("DELETE", "/videos/{video_id}")
@proves("GET", "/videos/{video_id}/frames/{n}")
async def _videos(tenants: Tenants) -> None:
    """Each of her names gets the same answer as an unknown name, even with the ETag of her frame."""
    await tenants.upload_videos(ANNA)
    hers = await tenants.ask(ANNA, "GET", f"/videos/{CLIP_DIGEST}/frames/0")
    for path in ("/videos/{}", "/videos/{}/frames/0"):
        unknown = await tenants.bert("GET", path.format("nobodys"))
        for name in (NAMES[0], CLIP_DIGEST):
            reply = await tenants.bert(
                "GET", path.format(name), headers={"If-None-Match": hers.headers["etag"]}
            )
            assert error(reply) == (404, "video_not_found")
            assert reply.text.replace(name, "nobodys") == unknown.text
    for name in (NAMES[0], CLIP_DIGEST):
        assert (await tenants.bert("DELETE", f"/videos/{name}")).status_code == 204
        assert (await tenants.ask(ANNA, "GET", f"/videos/{name}")).status_code == 200


async def _annas_track(tenants: Tenants) -> dict[str, Any]:
    """Anna's track of her picture, with a click, as she sees it."""
    body = {"frames": [NAMES[0]], "track_id": NAMES[0]}
    assert (await tenants.ask(ANNA, "POST", "/tracks", json=body)).status_code == 200
    click = {"frame": 0, "object": 1, **CLICK}
    reply = await tenants.ask(ANNA, "POST", f"/tracks/{NAMES[0]}/prompts", json=click)
    assert reply.status_code == 200
    seen: dict[str, Any] = (await tenants.ask(ANNA, "GET", f"/tracks/{NAMES[0]}")).json()
    return seen


@proves("POST", "/tracks")
@proves("GET", "/tracks")
@proves("POST", "/propagate")
async def _begin_tracks(tenants: Tenants) -> None:
    """Her pictures are no frames of his, and her name is free for him."""
    hers = await _annas_track(tenants)
    prompts = {"prompts": [{"frame": 0, "object": 1, **CLICK}]}
    for path, more in (("/tracks", {}), ("/propagate", prompts)):
        unknown = await tenants.bert("POST", path, json={"frames": ["nobodys"], **more})
        for name in NAMES:
            reply = await tenants.bert("POST", path, json={"frames": [name], **more})
            assert error(reply) == (404, "image_not_found")
            assert reply.text.replace(name, "nobodys") == unknown.text
    assert (await tenants.bert("GET", "/tracks")).json() == {"tracks": [], "next": None}
    assert error(await tenants.bert("GET", f"/tracks?after={NAMES[0]}")) == (404, "track_not_found")
    await tenants.upload(BERT)
    body = {"frames": [DIGEST], "track_id": NAMES[0]}
    assert (await tenants.bert("POST", "/tracks", json=body)).status_code == 200
    assert (await tenants.ask(ANNA, "GET", f"/tracks/{NAMES[0]}")).json() == hers


@proves("GET", "/tracks/{track_id}")
@proves("DELETE", "/tracks/{track_id}")
@proves("POST", "/tracks/{track_id}/prompts")
@proves("POST", "/tracks/{track_id}/propagate")
@proves("DELETE", "/tracks/{track_id}/objects/{object}")
@proves("DELETE", "/tracks/{track_id}/objects/{object}/prompts/{frame}")
async def _tracks(tenants: Tenants) -> None:
    """Her track gets the same answers as an unknown one, and stays as it is."""
    hers = await _annas_track(tenants)
    for method, path, body in (
        ("GET", "", None),
        ("POST", "/prompts", {"frame": 0, "object": 1, **CLICK}),
        ("POST", "/propagate", {}),
        ("DELETE", "/objects/1", None),
        ("DELETE", "/objects/1/prompts/0", None),
    ):
        unknown = await tenants.bert(method, f"/tracks/nobodys{path}", json=body)
        reply = await tenants.bert(method, f"/tracks/{NAMES[0]}{path}", json=body)
        assert error(reply) == (404, "track_not_found")
        assert reply.text.replace(NAMES[0], "nobodys") == unknown.text
    assert (await tenants.bert("DELETE", f"/tracks/{NAMES[0]}")).status_code == 204
    assert (await tenants.ask(ANNA, "GET", f"/tracks/{NAMES[0]}")).json() == hers


async def _tells_nothing(tenants: Tenants, path: str) -> None:
    reply = await tenants.bert("GET", path)
    assert reply.status_code == 200
    assert not any(secret in reply.text for secret in (*NAMES, ANNA, '"anna"'))


@proves("GET", "/model")
@proves("GET", "/cluster")
@proves("GET", "/healthz")
@proves("GET", "/readyz")
@proves("GET", "/metrics")
@proves("GET", "/openapi.json")
@proves("GET", "/docs")
@proves("GET", "/docs/{name}")
@proves("GET", "/")
@proves("GET", "/page/{name}")
@proves("GET", "/page/video/{name}")
@proves("GET", "/client.js")
@proves("GET", "/client/{name}")
async def _says_nothing_of_pictures(tenants: Tenants) -> None:
    """Endpoints about the server name no pictures, and metrics name no tenants."""
    about_the_server = ("/model", "/cluster", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs")
    for path in (
        *about_the_server,
        "/",
        "/docs/swagger-ui.css",
        "/page/main.js",
        "/page/video/start.js",
        "/client.js",
        "/client/index.js",
    ):
        await _tells_nothing(tenants, path)


def methods_and_paths(routes: list[BaseRoute]) -> set[tuple[str, str]]:
    """Return every route of an app, including those of included routers and mounted apps."""
    found: set[tuple[str, str]] = set()
    for route in routes:
        if isinstance(route, Route):
            found |= {(method, route.path) for method in (route.methods or {"GET"}) - {"HEAD"}}
        elif isinstance(route, WebSocketRoute):
            found.add(("WEBSOCKET", route.path))
        elif isinstance(route, Mount):
            found |= {(method, route.path + path) for method, path in methods_and_paths(route.routes)}
        else:
            inner = getattr(getattr(route, "original_router", None), "routes", None)
            assert inner is not None, f"{route!r}: cannot list the routes that it serves"
            found |= methods_and_paths(inner)
    return found


def test_every_route_has_its_proof() -> None:
    app = create_app(Settings(workers=2, doors="none"))  # those of doors: tests/app/doors/test_doors.py
    assert methods_and_paths(app.routes) == PROOFS.keys()


@pytest.mark.parametrize(("method", "path"), list(PROOFS), ids=" ".join)
async def test_what_is_annas_stays_hers(method: str, path: str) -> None:
    async with anna_has_a_picture() as tenants:
        await PROOFS[method, path](tenants)
        await tenants.anna_has_all_of_it()


async def test_the_same_picture_under_way_is_not_joined() -> None:
    """If Bert joined Anna's encoding, he would get `cached`, and be done sooner than any encoding takes."""
    async with serving(settings()) as served:
        tenants = Tenants(served)
        served.segmenter.gate.clear()
        annas = asyncio.create_task(tenants.upload(ANNA))
        await served.segmenter.wait_until_entered()
        berts = asyncio.create_task(tenants.upload(BERT))
        await until(lambda: served.service._encodings._waiting_images.held("bert") == 1)
        served.segmenter.gate.set()
        assert [(await upload).json()["cached"] for upload in (annas, berts)] == [False, False]
        assert len(served.segmenter.encoded) == 2


async def test_deleting_ones_own_copy_leaves_the_others() -> None:
    async with anna_has_a_picture() as tenants:
        assert (await tenants.upload(BERT)).status_code == 200
        for name in NAMES:
            assert (await tenants.ask(ANNA, "DELETE", f"/images/{name}")).status_code == 204
        assert (await tenants.upload(BERT)).json()["cached"] is True
        assert (await tenants.upload(ANNA)).json()["cached"] is False


async def test_kept_uploads_of_a_tenant_are_its_own_and_are_embedded_again(tmp_path: Path) -> None:
    kept = {"cache_dir": str(tmp_path), "keep_uploads": True}
    async with anna_has_a_picture(**kept) as tenants:
        assert (await tenants.upload(BERT)).json()["cached"] is False
    uploads = list((tmp_path / "uploads").iterdir())
    assert len(uploads) == 2
    for path in (tmp_path / "embeddings").rglob("*.safetensors"):
        path.unlink()
    async with serving(settings(**kept)) as served:
        tenants = Tenants(served)
        for key in (ANNA, BERT):
            reply = await tenants.ask(key, "POST", "/decode", json={"image_id": DIGEST, **CLICK})
            assert reply.status_code == 200, reply.text
        assert len(served.segmenter.encoded) == 2
