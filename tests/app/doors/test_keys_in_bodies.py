"""Keys in bodies: where they are found, what a body without a valid one costs, and whose pictures are whose."""

import asyncio
import json
from base64 import b64encode
from typing import Any

import pytest
from fastapi import Request

from app.doors.keys_in_bodies import _Begun
from app.errors import BodyTooSlow
from app.middleware.access import Message
from app.settings import Settings
from tests.fakes import LONG_S, Served, picture, serving

ANNA, BERT, WRONG = (f"{name}-0123456789abcdef" for name in ("anna", "bert", "wrong"))
PATHS = ["/sam2/segment_image", "/sam2/embed_image", "/sam3/visual_segment", "/sam3/embed_image"]
LARGE = b64encode(picture()).decode() + " " * 200_000


def keyed(**settings: Any) -> Settings:
    return Settings(workers=2, api_keys=f"anna:{ANNA},bert:{BERT}", **settings)


def fields(value: str = LARGE) -> dict[str, Any]:
    return {
        "image": {"type": "base64", "value": value},
        "prompts": [{"points": [{"x": 30, "y": 20, "positive": True}]}],
    }


def first(key: object) -> dict[str, Any]:
    return {"api_key": key, **fields()}


def last(key: object) -> dict[str, Any]:
    return {**fields(), "api_key": key}


@pytest.mark.parametrize("path", PATHS)
async def test_a_key_is_found_in_head_query_and_body(path: str) -> None:
    async with serving(keyed()) as served:
        for reply in (
            await served.client.post(path, json=fields(), headers={"Authorization": f"Bearer {ANNA}"}),
            await served.client.post(path, json=first(None), headers={"X-API-Key": ANNA}),
            await served.client.post(path, json=fields(), params={"api_key": ANNA, "source": "sdk"}),
            await served.post(path, first(ANNA)),
            await served.post(path, last(ANNA)),
            await served.client.post(path, content=json.dumps(last(ANNA)).replace("anna", "\\u0061nna")),
            await served.client.post(path, content=json.dumps(first(ANNA)).replace("anna", "\\u0061nna")),
            await served.client.post(path, json=fields(), auth=("anna", ANNA)),
            *[  # the login of a proxy in front, which it passes on
                await served.client.post(path, json=body, params=query, auth=("user", "of the proxy"))
                for body, query in ((first(ANNA), {}), (last(ANNA), {}), (fields(), {"api_key": ANNA}))
            ],
        ):
            assert reply.status_code == 200, reply.text
        assert len(served.segmenter.encoded) == 1
        assert served.app.state.body_budget.used_bytes == 0
        assert served.app.state.strangers_budget.used_bytes == 0


@pytest.mark.parametrize("path", PATHS)
async def test_other_requests_are_refused(path: str) -> None:
    async with serving(keyed()) as served:
        for reply in (
            await served.post(path, fields()),
            await served.post(path, first(None)),
            await served.post(path, last(None)),
            await served.post(path, first("")),
            await served.post(path, first(WRONG)),
            await served.post(path, last(WRONG)),
            await served.client.post(path, json=first(ANNA), headers={"X-API-Key": WRONG}),
            await served.client.post(path, json=first(None), auth=("anna", WRONG)),
            await served.client.post(path, json=last(WRONG), auth=("anna", WRONG)),
            await served.client.post(path, json=first(ANNA), params={"api_key": WRONG}),
        ):
            assert reply.status_code == 401, reply.text
            assert "API key" in reply.json()["message"]
        assert served.segmenter.encoded == []
        nested = {"source_info": {"api_key": ANNA}, **fields()}
        assert (await served.post(path, nested)).status_code == 422
        twice = await served.post(path, {"source_info": {"api_key": ANNA}, **last(BERT)})
        assert (twice.status_code, "two places" in twice.json()["message"]) == (422, True)
        not_text = await served.post(path, first(7))
        assert not_text.status_code == 422


async def test_tenants_do_not_see_each_other() -> None:
    async with serving(keyed()) as served:
        for key in (ANNA, BERT, ANNA):
            reply = await served.post("/sam2/embed_image", first(key) | {"image_id": "truck"})
            assert reply.status_code == 200
        assert len(served.segmenter.encoded) == 2
        other = {"type": "base64", "value": b64encode(picture(80, 20)).decode()}
        await served.post("/sam2/embed_image", first(BERT) | {"image": other, "image_id": "truck"})
        for key, width in ((ANNA, 60), (BERT, 80)):
            reply = await served.client.get("/images/truck", headers={"X-API-Key": key})
            assert reply.json()["width"] == width


async def test_the_limit_in_flight_is_that_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(keyed(rate_requests_in_flight=1)) as served:
        with served.app.state.in_flight.request("anna"):
            for request in (first(ANNA), last(ANNA)):
                reply = await served.post("/sam2/segment_image", request)
                assert (reply.status_code, reply.json()["code"]) == (429, "rate_limited")
            assert (await served.post("/sam2/segment_image", last(BERT))).status_code == 200
    async with serving(Settings(workers=2, rate_requests_in_flight=1)) as served:
        with served.app.state.in_flight.request("127.0.0.1"):
            assert (await served.post("/sam2/segment_image", fields())).status_code == 429


async def _sent(
    served: Served, body: bytes, *, step: int = 65536, gone_at: int | None = None
) -> tuple[int | None, int]:
    """POST a body in pieces, as a server hands them over; the client may disconnect after some bytes.

    Return the status and the bytes that were read.
    """
    read = 0
    status: int | None = None

    async def receive() -> Message:
        nonlocal read
        if gone_at is not None and read >= gone_at:
            return {"type": "http.disconnect"}
        piece = body[read : read + step]
        read += len(piece)
        return {"type": "http.request", "body": piece, "more_body": read < len(body)}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    scope = {
        "type": "http",
        "method": "POST",
        "path": PATHS[0],
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("192.0.2.1", 1),
    }
    await served.app(scope, receive, send)
    return status, read


@pytest.mark.parametrize("key", [None, WRONG], ids=["none", "wrong"])
async def test_a_wrong_key_at_the_beginning_is_refused_before_the_rest_is_read(key: str | None) -> None:
    body = json.dumps({"source": "external", "api_key": key, **fields("A" * 5_000_000)}).encode()
    async with serving(keyed()) as served:
        assert await _sent(served, body) == (401, 65536)
        status, read = await _sent(served, body, step=10)  # the key comes in pieces
        assert status == 401
        assert read < 10_000


async def test_bodies_that_may_have_their_key_at_the_end_share_a_small_budget() -> None:
    """So strangers cannot take the memory that is meant for the clients' bodies."""
    settings = keyed(max_upload_mib=1, max_bodies_mib=32)
    async with serving(settings) as served:
        strangers, clients = served.app.state.strangers_budget, served.app.state.body_budget
        assert strangers.shares.capacity < clients.shares.capacity / 4
        assert strangers.shares.alone >= 1_500_000  # one body of the largest kind
        strangers.shares.add("192.0.2.7", strangers.shares.capacity)
        reply = await served.post("/sam2/segment_image", last(ANNA))
        assert (reply.status_code, reply.json()["code"]) == (503, "overloaded")
        assert (await served.post("/sam2/segment_image", first(ANNA))).status_code == 200
        reply = await served.client.post("/sam2/segment_image", json=fields(), headers={"X-API-Key": ANNA})
        assert reply.status_code == 200


async def test_a_body_counts_for_its_client_while_its_masks_are_made() -> None:
    async with serving(keyed()) as served:
        seen: list[tuple[int, int]] = []
        budgets = served.app.state.strangers_budget, served.app.state.body_budget
        decode = served.service.decode

        async def counted(*arguments: Any, **options: Any) -> Any:
            seen.append((budgets[0].used_bytes, budgets[1].shares.held("anna")))
            return await decode(*arguments, **options)

        served.service.decode = counted  # type: ignore[method-assign]
        for request in (first(ANNA), last(ANNA)):
            assert (await served.post("/sam2/segment_image", request)).status_code == 200
        assert [strangers for strangers, _ in seen] == [0, 0]
        assert all(held > 200_000 for _, held in seen)


async def test_a_body_that_ends_before_its_key() -> None:
    async with serving(keyed()) as served:
        for content in (b"", b"{", b'{"api_key": "', b'{"api_key": "\xff"}'):
            reply = await served.client.post("/sam2/segment_image", content=content)
            assert reply.status_code in (400, 422), reply.text
            assert reply.json()["message"]
        body = json.dumps(last(ANNA)).encode()
        for gone_at in (0, 100, 5_000, 100_000):
            assert (await _sent(served, body, step=100, gone_at=gone_at))[0] == 400
        assert served.app.state.strangers_budget.used_bytes == 0


async def test_a_body_whose_beginning_does_not_come_is_not_waited_for() -> None:
    async def silence() -> Message:
        await asyncio.sleep(LONG_S)
        raise AssertionError

    async with serving(keyed(deadline_s=0.05)) as served:
        scope = {"type": "http", "app": served.app, "headers": []}
        with pytest.raises(BodyTooSlow):
            await _Begun(Request(scope, silence)).read()


async def test_without_keys_anyone_may_call() -> None:
    async with serving() as served:
        for request in (fields(), first(None), first(WRONG), last(WRONG)):
            assert (await served.post("/sam2/segment_image", request)).status_code == 200
