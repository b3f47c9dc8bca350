"""Doors: which are open, whose errors have which form, and where their keys are looked for."""

import json
import logging
import re
import threading
from base64 import b64encode

import httpx
import pytest
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic import ValidationError

from app.client_settings import DOORS
from app.codecs.answers import MaskOptions
from app.codecs.prompts import PromptRequest
from app.doors import rings
from app.doors.door import Door, Doors
from app.doors.doors import ALL, open_doors
from app.doors.requests import ToolBody, admitted, masks_on, picture_file, reading
from app.doors.rings import outermost, with_holes
from app.middleware.callers import tenant_of
from app.scheduling.abandoned import Abandoned, abandoned_by
from app.settings import Settings
from tests.fakes import picture, serving

KEYS = "anna:anna-0123456789abcdef,bert:bert-0123456789abcdef"
PICTURE = b64encode(picture()).decode()

router = APIRouter(prefix="/tool")


class Body(ToolBody):
    image: str
    key: str = ""


@router.post("/")
async def click(request: Request) -> dict[str, object]:
    async with reading(request, Body) as body:
        data = await picture_file(request, body.image, where="image")
        prompts = [PromptRequest(point_coords=[[30, 20]], point_labels=[1])]
        embedded, decoded = await masks_on(request, data, prompts, options=MaskOptions())
    return {
        "cached": embedded.cached,
        "masks": [mask.counts for mask in decoded.predictions[0]],
        "tenant": tenant_of(request),
    }


@router.post("/in-body")
async def click_with_key(request: Request) -> dict[str, object]:
    async with reading(request, Body) as body:
        with admitted(request, key=body.key):
            return {"tenant": tenant_of(request)}


@router.get("/bug")
async def bug() -> None:
    raise RuntimeError("a bug")


TOOL = Door(
    name="tool",
    router=router,
    paths=("/tool/", "/tool-health"),
    error=lambda fault: {"said": fault.message, "number": fault.status, "code": fault.code},
    free=frozenset({"/tool/in-body"}),
    key=lambda scope: dict(scope["headers"]).get(b"token", b"").decode(),
)


@pytest.fixture(autouse=True)
def _with_the_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.main.open_doors", lambda names: Doors([TOOL]))


def test_each_name_has_a_door_and_all_or_none_may_be_open() -> None:
    assert {door.name for door in ALL} == set(DOORS)
    for text, names in (("all", set(DOORS)), ("none", set()), (f" {DOORS[0]} ,", {DOORS[0]})):
        doors = open_doors(Settings(doors=text).open_doors)
        assert {door.name for door in ALL if doors.of(door.paths[0])} == names
        assert len(doors.routers) == len(names)
    for text in ("", ",", "qupath,excel", "all,qupath"):
        with pytest.raises(ValidationError, match="is not a tool; use all, none or some of"):
            Settings(doors=text)


def test_a_door_owns_its_paths_and_no_others() -> None:
    assert all(TOOL.owns(path) for path in ("/tool/", "/tool/x/y", "/tool-health"))
    assert not any(TOOL.owns(path) for path in ("/tool", "/tools/", "/tool-health/x", "/"))


async def test_the_same_bytes_are_embedded_once() -> None:
    async with serving() as served:
        first, second = [
            (await served.post("/tool/", {"image": PICTURE, "new field": 1})).json() for _ in "ab"
        ]
        assert (first["cached"], second["cached"]) == (False, True)
        assert first["masks"] == second["masks"]
        assert len(served.segmenter.encoded) == 1
        large = "data:image/png;base64," + PICTURE + " " * 10_000  # parsed in a worker
        assert (await served.post("/tool/", {"image": large})).json()["cached"] is True


async def test_errors_have_the_form_of_the_tool_and_their_reason_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    def said(reply: httpx.Response) -> tuple[int, str, str]:
        body = reply.json()
        assert reply.headers["content-length"] == str(len(reply.content))
        assert reply.status_code == body["number"]
        assert body["said"] in caplog.text
        assert reply.headers["x-request-id"]
        return body["number"], body["code"], body["said"]

    async with serving() as served:
        bad = await served.post("/tool/", {"image": "&&&"})
        assert said(bad) == (422, "validation_error", "image: it is not base64: it has the character '&'.")
        assert said(await served.post("/tool/", {}))[:2] == (422, "validation_error")
        assert said(await served.client.post("/tool/", content=b"{"))[:2] == (400, "bad_request")
        broken = b64encode(b"no picture").decode()
        assert said(await served.post("/tool/", {"image": broken}))[:2] == (422, "invalid_image")
        assert said(await served.client.get("/tool/nothing"))[0] == 404
        assert said(await served.client.get("/tool/bug"))[:2] == (500, "internal_error")
        others = await served.client.get("/nothing")
        assert json.loads(others.content).keys() == {"error"}
        for path in ("/tool/nothing", "/tool/bug"):
            get, head = await served.client.get(path), await served.client.head(path)
            assert (head.status_code, head.content) == (get.status_code, b"")
            assert head.headers["content-length"] == get.headers["content-length"]


async def test_a_picture_file_beyond_the_limit_is_refused() -> None:
    async with serving(Settings(workers=2, max_upload_mib=1)) as served:
        reply = await served.post("/tool/", {"image": b64encode(bytes(2**20 + 1)).decode()})
        assert (reply.status_code, reply.json()["code"]) == (413, "image_too_large")


async def test_keys_are_found_where_the_tool_puts_them() -> None:
    async with serving(Settings(workers=2, api_keys=KEYS)) as served:
        body = {"image": PICTURE}
        assert (await served.post("/tool/", body)).json()["code"] == "unauthorized"
        login_of_a_proxy = {"Authorization": f"Basic {b64encode(b'user:password').decode()}"}
        token = {"Token": "anna-0123456789abcdef"}
        for headers in (token, token | login_of_a_proxy, {"X-API-Key": "anna-0123456789abcdef"}):
            reply = await served.client.post("/tool/", json=body, headers=headers)
            assert reply.json()["tenant"] == "anna"
        elsewhere = await served.client.get("/model", headers={"Token": "anna-0123456789abcdef"})
        assert elsewhere.status_code == 401
        wrong = await served.post("/tool/in-body", body)
        assert (wrong.status_code, wrong.json()["code"]) == (401, "unauthorized")
        right = await served.post("/tool/in-body", {**body, "key": "bert-0123456789abcdef"})
        assert right.json() == {"tenant": "bert"}


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def test_holes_lie_in_the_smallest_ring_around_them() -> None:
    far, around, within = square(100, 0, 10), square(0, 0, 50), square(20, 20, 10)
    hole, small = square(10, 10, 30), square(22, 22, 4)
    assert with_holes([far, around, within], [hole, small]) == [[far], [around, hole], [within, small]]
    touching = [[0, 25], [10, 20], [10, 30]]
    assert with_holes([around], [touching]) == [[around, touching]]
    assert with_holes([far], [hole]) == [[far]]
    assert with_holes([], []) == []


@pytest.mark.parametrize("door", ALL, ids=lambda door: door.name)
async def test_every_path_of_a_door_needs_a_key_unless_it_is_free(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.main.open_doors", lambda _: Doors([door]))
    routes = [route for route in door.router.routes if isinstance(route, APIRoute)]
    assert routes
    async with serving(Settings(workers=2, api_keys=KEYS)) as served:
        for route in routes:
            path = re.sub(r"\{.*?\}", "x", route.path)
            for method in route.methods:
                assert door.owns(route.path, method), route.path
                reply = await served.client.request(method, path)
                assert (reply.status_code == 401) == (path not in door.free), (method, path)


def test_outermost_rings_lie_in_no_other() -> None:
    around, within, far = square(0, 0, 50), square(20, 20, 10), square(100, 0, 10)
    beside = [[60, 0], [90, 0], [60, 30]]
    in_its_box = square(80, 20, 8)  # but not in the triangle
    assert outermost([within, around, far, beside, in_its_box]) == [around, far, beside, in_its_box]
    assert outermost([]) == []


def test_thousands_of_rings_are_told_apart_by_their_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of noise has thousands of rings; comparing all corners of all pairs would take minutes."""
    compared: list[rings.Floats] = []
    inside = rings._inside

    def counted(points: rings.Floats, corners: rings.Floats) -> object:
        compared.append(corners)
        return inside(points, corners)

    monkeypatch.setattr(rings, "_inside", counted)
    many = [square(3 * x, 3 * y, 2) for x in range(40) for y in range(40)]
    assert len(outermost(many)) == len(many)
    assert all(len(part) == 1 for part in with_holes(many, [square(-9, -9, 1)] * len(many)))
    assert compared == []
    around = square(-1, -1, 200)
    assert with_holes([*many, around], [square(0.5, 0.5, 1)] * 99)[0][0] == many[0]
    assert len(compared) == 2  # all holes of a ring at once


def comb(teeth: int) -> list[list[float]]:
    """Return a ring with so many slots from below, each one wide, and of 20,000 corners in steps of 0.01."""
    top = [[2.0 * teeth - 0.01 * step * teeth / 100, 0.0] for step in range(20_000)]
    slots = [[2.0 * i + x, y] for i in range(teeth) for x, y in ((0, 100), (1, 100), (1, 5), (2, 5))]
    return [*top, *slots]


def test_a_ring_of_many_corners_is_not_compared_with_each_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """One ring around a thousand holes has most corners of a mask: 30 s for a mask of noise."""
    compared = 0
    groups = rings._groups

    def counted(counts: rings.Integers) -> object:
        nonlocal compared
        compared += int(counts.sum())
        return groups(counts)

    monkeypatch.setattr(rings, "_groups", counted)
    ring = comb(100)
    holes = [square(2 * i + x, y, 0.5) for i in range(100) for x, y in ((0.2, 50), (1.2, 50), (1.2, 2))]
    found = with_holes([ring], holes)[0][1:]
    assert found == [hole for i, hole in enumerate(holes) if i % 3 != 1]  # those in slots are outside
    assert compared < 4 * len(holes) * 500


def test_comparing_rings_ends_when_nobody_waits_for_it() -> None:
    given_up = threading.Event()
    given_up.set()
    with abandoned_by(given_up), pytest.raises(Abandoned):
        with_holes([square(0, 0, 9)], [square(1, 1, 1)])
