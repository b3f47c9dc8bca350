"""A stand-in for Label Studio, which serves pictures to whoever has its token; and requests as its release 1.23.2
sends them.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from app.settings import Settings
from tests.fakes import FakeSegmenter, Served, picture, serving
from tests.local_server import local_server, port_of

LABELS = '<Label value="Eagle"/><Label value="House" background="#fa0"/>'
ACCESS = "access-1"
PERSONAL = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"


@dataclass
class Studio:
    """What it serves, and what it was asked."""

    url: str = ""
    pictures: dict[str, bytes] = field(default_factory=lambda: {"/data/upload/1/a.png": picture()})
    redirects: dict[str, str] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {"Token legacy"})
    """Values of Authorization that it accepts. Empty: it asks for none."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Path and Authorization of each."""
    refreshed: int = 0
    refuses_refresh: bool = False

    def reply(self, method: str, path: str, authorization: str, body: bytes) -> tuple[str, str, bytes]:
        """Return status, further headers and body."""
        self.requests.append((path, authorization))
        if path == "/api/token/refresh/":
            if (location := self.redirects.get(path)) is not None:
                return "301 Moved Permanently", f"location: {location}\r\n", b""
            if self.refuses_refresh or json.loads(body) != {"refresh": PERSONAL} or method != "POST":
                return "401 Unauthorized", "", b"{}"
            self.refreshed += 1
            self.tokens = {f"Bearer access-{self.refreshed}"}
            return "200 OK", "", json.dumps({"access": f"access-{self.refreshed}"}).encode()
        if self.tokens and authorization not in self.tokens:
            return "401 Unauthorized", "", b'{"detail": "legacy token authentication has been disabled"}'
        if (location := self.redirects.get(path)) is not None:
            return "302 Found", f"location: {location}\r\n", b""
        if (data := self.pictures.get(path)) is not None:
            return "200 OK", "content-type: image/png\r\n", data
        return "404 Not Found", "", b""


@asynccontextmanager
async def studio() -> AsyncIterator[Studio]:
    """Run the stand-in on a free port of 127.0.0.1."""
    here = Studio()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        values = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
        authorization = next((v for name, v in values.items() if name.lower() == "authorization"), "")
        assert headers["accept"] == "*/*", "to anything else it answers with 406"
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        status, more, data = here.reply(method, path, authorization, body)
        start = f"HTTP/1.1 {status}\r\ncontent-length: {len(data)}\r\nconnection: close\r\n{more}\r\n"
        writer.write(start.encode() + data)
        writer.close()

    async with local_server(serve) as server:
        here.url = f"http://127.0.0.1:{port_of(server)}"
        yield here


@asynccontextmanager
async def connected(
    segmenter: FakeSegmenter | None = None, *, key: str = "legacy", path: str = "", **settings: Any
) -> AsyncIterator[tuple[Served, Studio]]:
    """Run the service beside the stand-in, whose address and token it has."""
    async with (
        studio() as here,
        serving(
            Settings(workers=2, label_studio_url=here.url + path, label_studio_api_key=key, **settings),
            segmenter,
        ) as served,
    ):
        yield served, here


def config(*tags: str) -> str:
    """Return a label config whose answers go to these tags."""
    answers = "".join(f'<{tag} name="{tag}" toName="img">{LABELS}</{tag}>' for tag in tags)
    return (
        f'<View><!-- birds --><Image name="img" value="$image" zoom="true"/>{answers}'
        f'<KeyPointLabels name="kp" toName="img" smart="true">{LABELS}</KeyPointLabels></View>'
    )


def key_point(x: float = 50.0, y: float = 50.0, **changed: Any) -> dict[str, Any]:
    """Return a click in percent of the picture."""
    value = {"x": x, "y": y, "width": 0.3, "keypointlabels": ["Eagle"], "labels": ["Eagle"]}
    return _region("keypointlabels", "kp", value) | {"is_positive": True} | changed


def rectangle(x: float, y: float, width: float, height: float, label: str = "Eagle") -> dict[str, Any]:
    """Return a rectangle in percent of the picture."""
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [label]}
    return _region("rectanglelabels", "box", value)


def _region(kind: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "7tJ3kd9x2_",
        "type": kind,
        "from_name": name,
        "to_name": "img",
        "original_width": 60,
        "original_height": 40,
        "image_rotation": 0,
        "origin": "manual",
        "value": value,
    }


def body(
    *regions: dict[str, Any],
    labels: str | None = None,
    data: dict[str, Any] | None = None,
    **changed: Any,
) -> dict[str, Any]:
    """Return the body of /predict for a click. The task carries annotations, as in Label Studio."""
    task = {
        "id": 7,
        "data": data or {"image": "/data/upload/1/a.png", "note": 'a "note" [1, 2]'},
        "annotations": [{"id": 1, "result": [{"value": {"format": "rle", "rle": [0, 0, 37] * 5000}}]}],
        "predictions": [],
        "drafts": [],
        "project": 1,
    }
    return {
        "tasks": [task],
        "project": "1.1795860000",
        "label_config": labels or config("BrushLabels"),
        "params": {"login": None, "password": None, "context": {"result": list(regions)}},
    } | changed
