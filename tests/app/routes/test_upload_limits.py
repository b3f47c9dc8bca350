"""POST /embed: bodies and pictures that are too large, too many concurrently, or endless."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator

import pytest

from app.routes import body_budget
from app.routes.body_budget import BodyBudget
from app.scheduling.shares import Shares
from app.settings import Settings
from tests.fakes import LONG_S, error, picture, serving

PNG = {"Content-Type": "image/png"}


async def test_limits_of_bytes_and_of_pixels() -> None:
    limit = 2**20
    settings = Settings(max_upload_mib=1, max_image_megapixels=0.01, workers=2)
    async with serving(settings) as served:
        small = picture(100, 100)
        full = small + bytes(limit - len(small))
        assert (await served.embed(full)).status_code == 200
        text = base64.b64encode(full).decode()
        assert (await served.post("/embed", {"image": text})).json()["cached"] is True  # the same limit
        assert (await served.client.post("/embed", files={"image": full})).json()["cached"] is True

        over = full + b"\0"
        for response in (
            await served.embed(over),
            await served.client.post("/embed", files={"image": over}),
            await served.embed(bytes(2 * limit)),
        ):
            assert error(response) == (413, "image_too_large")
            assert "SAM2_MAX_UPLOAD_MIB" in response.json()["error"]["message"]

        large = await served.embed(picture(101, 100))
        assert error(large) == (413, "image_too_large")
        assert "SAM2_MAX_IMAGE_MEGAPIXELS" in large.json()["error"]["message"]


async def test_a_body_that_is_longer_than_announced_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 2**18
            yield bytes(2**18)

    async with serving(Settings(max_upload_mib=1, workers=2)) as served:
        for path in ("/embed", "/decode"):
            response = await served.client.post(path, content=endless(), headers=PNG)
            assert error(response) == (413, "image_too_large")
        assert sent < 8 * 2**20
        assert served.app.state.body_budget.used_bytes == 0


async def test_bodies_of_all_requests_together_are_bounded() -> None:
    settings = Settings(max_upload_mib=1, max_bodies_mib=1, workers=2)
    async with serving(settings) as served:
        served.segmenter.gate.clear()
        small = picture()
        waiting = asyncio.create_task(served.embed(small + bytes(2**20 - len(small))))
        await served.segmenter.wait_until_entered()
        refused = await served.embed(small)
        assert error(refused) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert "SAM2_MAX_BODIES_MIB" in refused.json()["error"]["message"]
        served.segmenter.gate.set()
        assert (await waiting).status_code == 200
        assert (await served.embed(small)).status_code == 200


async def test_a_body_that_stops_in_the_middle_is_given_up() -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield picture()[:10]
        await asyncio.sleep(20)

    async with serving(Settings(deadline_s=0.05, workers=2)) as served:
        response = await served.client.post("/embed", content=stalled(), headers=PNG)
        assert error(response) == (400, "bad_request")
        assert served.app.state.body_budget.used_bytes == 0


async def test_bodies_of_many_values_are_refused() -> None:
    async with serving(Settings(workers=2)) as served:
        reply = await served.client.post(
            "/decode", content=b'{"image_id": "a", "point_coords": [' + b"0," * 1_100_000 + b"0]}"
        )
        assert error(reply) == (422, "validation_error")
        assert "more than 1000000 values" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/segment", "/everything"])
async def test_values_of_forms_are_bounded_as_those_of_bodies(path: str) -> None:
    """Seen: 80 MB of numbers or objects in one field held the event loop for up to ten seconds."""
    half = f"[{'0,' * 600_000}0]"
    bounded = [
        ({"prompts": half, "points": half}, "body: more than 1000000 values"),
        ({"prompts": f"[{'{},' * 20_000}{{}}]"}, "body: more than 16384 objects"),
        ({"points": f'["{"A" * 9_000_000}"]'}, "points: it has 9000000 characters, where at most 8388608"),
    ]
    if path == "/segment":
        bounded[2] = (
            {"mask_input": f'{{"size": [1, 1], "counts": "{"0" * 9_000_000}"}}'},
            "mask_input: it has 9",
        )
    async with serving(Settings(workers=2)) as served:
        for fields, words in bounded:
            reply = await served.client.post(path, files={"image": picture()}, data=fields)
            assert error(reply) == (422, "validation_error")
            assert reply.json()["error"]["message"].startswith(words)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ([b'Content-Disposition: form-data; name="a%d"\r\n\r\nb' % i for i in range(65)], "64 fields"),
        ([b"".join(b"a%d: b\r\n" % i for i in range(17)) + b"\r\nb"], "header count"),
        ([b"a: " + b"b" * 9000 + b"\r\n\r\nb"], "header size"),
    ],
    ids=["fields", "headers", "a header"],
)
async def test_forms_are_bounded_in_their_parts(fields: list[bytes], what: str) -> None:
    body = b"".join(b"--x\r\n" + field + b"\r\n" for field in fields) + b"--x--\r\n"
    async with serving(Settings(workers=2)) as served:
        reply = await served.client.post(
            "/embed", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
        assert reply.status_code in (400, 422)
        assert what in reply.json()["error"]["message"]


async def test_a_large_body_is_put_together_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def join(chunks: list[bytes]) -> bytes:
        threads.append(threading.current_thread())
        return b"".join(chunks)

    monkeypatch.setattr(body_budget, "_join", join)
    async with serving() as served:
        small = picture()
        assert (await served.embed(small)).status_code == 200
        assert (await served.embed(small + bytes(2**20))).status_code == 200
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


async def test_a_body_that_is_late_while_the_server_stops_does_not_break_the_stop() -> None:
    budget = BodyBudget(Shares(1), patience_s=1)

    async def wait() -> None:
        async with asyncio.timeout(-1) as late:
            budget._waiting.add(late)
            try:
                await asyncio.sleep(LONG_S)
            finally:
                assert late.expired()
                budget.drain()

    with pytest.raises(TimeoutError):
        await wait()
