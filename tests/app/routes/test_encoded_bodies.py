"""Bodies that are compressed or otherwise encoded are refused with 415 by every endpoint that reads one."""

import gzip
import json
import zlib

import pytest

from app.main import create_app
from app.settings import Settings
from tests.fakes import Served, error, picture, serving
from tests.small_videos import clip

CLIP = clip(frames=2)
CLICK = {"frame": 0, "object": 1, "point_coords": [[30, 20]], "point_labels": [1]}
BODIES = {
    "/videos": ("video/mp4", CLIP),
    "/tracks": ("application/json", json.dumps({"frames": ["truck"]}).encode()),
    "/tracks/{track_id}/prompts": ("application/json", json.dumps(CLICK).encode()),
    "/tracks/{track_id}/propagate": ("application/json", b"{}"),
    "/propagate": ("application/json", json.dumps({"frames": ["truck"], "prompts": [CLICK]}).encode()),
    "/embed": ("image/png", picture()),
    "/decode": ("application/json", json.dumps({"image_id": "truck", "box": [1, 2, 30, 20]}).encode()),
    "/everything": ("application/json", json.dumps({"image_id": "truck", "points_per_side": 2}).encode()),
    "/segment": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="box"\r\n\r\n[1, 2, 30, 20]\r\n'
        b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + picture() + b"\r\n--x--\r\n",
    ),
}


async def begin(served: Served) -> None:
    """Embed a picture, and click on it as the only frame of a track."""
    await served.embed(picture(), "truck")
    await served.post("/tracks", {"frames": ["truck"], "track_id": "walk"})
    await served.post("/tracks/walk/prompts", CLICK)


def test_every_endpoint_with_a_body_is_tried() -> None:
    described = create_app(Settings()).openapi()["paths"]
    assert {path for path, methods in described.items() if methods.keys() & {"post", "put", "patch"}} == {
        *BODIES
    }


ENCODED = [
    ("Content-Encoding", "gzip", "gzip"),
    ("Content-Encoding", "GZip", "GZip"),
    ("Content-Encoding", "br", "br"),
    ("Content-Encoding", "deflate", "deflate"),
    ("Content-Encoding", "identity, zstd", "zstd"),
    ("Content-Encoding", "aws-chunked", "aws-chunked"),
    ("Transfer-Encoding", "gzip, chunked", "gzip"),
]


@pytest.mark.parametrize("path", BODIES)
async def test_an_encoded_body_is_told_so(path: str) -> None:
    media_type, body = BODIES[path]
    async with serving() as served:
        await begin(served)
        for header, value, named in ENCODED:
            for content in (body, gzip.compress(body), zlib.compress(body), b""):
                headers = {"Content-Type": media_type, header: value}
                reply = await served.client.post(
                    path.format(track_id="walk"), content=content, headers=headers
                )
                assert error(reply) == (415, "unsupported_media_type"), value
                assert f"{header} '{named}'" in reply.json()["error"]["message"]
                assert reply.headers["accept-encoding"] == "identity", value


@pytest.mark.parametrize("path", BODIES)
async def test_identity_is_no_encoding(path: str) -> None:
    media_type, body = BODIES[path]
    async with serving() as served:
        await begin(served)
        for value in ("identity", "Identity", "", "identity, identity"):
            headers = {"Content-Type": media_type, "Content-Encoding": value}
            reply = await served.client.post(path.format(track_id="walk"), content=body, headers=headers)
            assert reply.status_code == 200, (value, reply.text)


async def test_a_second_header_counts_too() -> None:
    async with serving() as served:
        headers = [
            ("Content-Type", "image/png"),
            ("Content-Encoding", "identity"),
            ("Content-Encoding", "gzip"),
        ]
        reply = await served.client.post("/embed", content=picture(), headers=headers)
        assert error(reply) == (415, "unsupported_media_type")
