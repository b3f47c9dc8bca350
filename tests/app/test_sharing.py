"""Many callers at once: who shares work, who goes first, who is refused, and what a failure leaves behind."""

import asyncio
import logging
from collections.abc import Coroutine, MutableMapping
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.fakes import FakeSegmenter, Served, error, picture, serving, until


def start(*calls: Coroutine[Any, Any, httpx.Response]) -> list[asyncio.Task[httpx.Response]]:
    """Requests under way."""
    return [asyncio.create_task(call) for call in calls]


async def block(served: Served) -> asyncio.Task[httpx.Response]:
    """Keep the device busy with a click on a picture named "blocked", until the gate opens."""
    await served.embed(picture(shade=255), "blocked")
    await served.segmenter.wait_until_entered()  # that was the encoder
    served.segmenter.gate.clear()
    (blocking,) = start(served.click("blocked"))
    await served.segmenter.wait_until_entered()
    return blocking


def waiting_prompts(served: Served) -> int:
    """Prompts in the queue of the decoder."""
    return served.service._decoder.waiting


async def test_ten_callers_who_upload_one_picture_make_one_encode() -> None:
    async with serving() as served:
        served.segmenter.gate.clear()
        uploads = start(*(served.embed(picture(), name) for name in [None, "a", "b"] + [None] * 7))
        await until(lambda: sum(e.callers for e in served.service._encodings._running.values()) == 10)
        served.segmenter.gate.set()
        replies = [(await upload).json() for upload in uploads]
        assert len(served.segmenter.encoded) == 1
        assert [reply["cached"] for reply in replies].count(False) == 1
        assert {reply["image_id"] for reply in replies} >= {"a", "b"}
        assert len(served.service._encodings) == 0


async def test_prompts_of_many_callers_share_a_batch() -> None:
    async with serving() as served:
        blocking = await block(served)
        await_these = start(*(served.click("blocked", x=x) for x in range(10)))
        await until(lambda: waiting_prompts(served) == 10)
        served.segmenter.gate.set()
        replies = [await call for call in [*await_these, blocking]]
        assert [reply.status_code for reply in replies] == [200] * 11
        assert [len(batch) for batch in served.segmenter.decoded] == [1, 10]
        alone = await served.click("blocked", x=7)
        assert alone.json() == replies[7].json()  # each got the answer to its own


async def test_a_click_overtakes_a_queue_of_uploads_and_the_one_that_is_running() -> None:
    async with serving() as served:
        await served.embed(picture(shade=255), "blocked")
        await served.segmenter.wait_until_entered()
        served.segmenter.gate.clear()
        uploads = start(*(served.embed(picture(shade=shade)) for shade in range(6)))
        await served.segmenter.wait_until_entered()
        await until(lambda: served.service._encoder.waiting == 5)
        (click,) = start(served.click("blocked"))
        await until(lambda: waiting_prompts(served) == 1)
        served.segmenter.gate.set()
        assert [(await call).status_code for call in [click, *uploads]] == [200] * 7
        upload = ["encode", "encoded"]
        assert served.segmenter.order == [*upload, "encode", "decode", "encoded", *upload * 5]


async def test_a_cached_upload_and_every_look_are_answered_while_the_device_is_busy() -> None:
    async with serving() as served:
        blocking = await block(served)
        assert (await served.embed(picture(shade=255))).json()["cached"] is True
        for path in ("/healthz", "/readyz", "/model", "/metrics", "/images", "/images/blocked/embedding"):
            assert (await served.client.get(path)).status_code == 200
        assert not blocking.done()
        served.segmenter.gate.set()
        assert (await blocking).status_code == 200


async def test_who_waits_longer_than_the_deadline_is_told() -> None:
    async with serving(Settings(deadline_s=0.2, workers=2)) as served:
        blocking = await block(served)
        late = start(served.click("blocked", x=1), served.embed(picture(shade=1)))
        for call in [blocking, *late]:
            response = await call
            assert error(response) == (504, "deadline_exceeded")
            assert "0.2 s" in response.json()["error"]["message"]
        await until(lambda: waiting_prompts(served) == 0)
        assert len(served.service._encodings) == 0
        served.segmenter.gate.set()
        assert (await served.click("blocked")).status_code == 200
        assert len(served.segmenter.decoded) == 2  # nobody waited for the late click any more


async def test_a_full_queue_of_prompts_refuses_at_once() -> None:
    async with serving(Settings(max_waiting_prompts=2, workers=2)) as served:
        blocking = await block(served)
        waiting = start(served.click("blocked"), served.click("blocked"))
        await until(lambda: waiting_prompts(served) == 2)
        refused = await served.click("blocked")
        assert error(refused) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        served.segmenter.gate.set()
        assert [(await call).status_code for call in [blocking, *waiting]] == [200] * 3
        assert (await served.click("blocked")).status_code == 200


async def test_a_full_queue_of_pictures_refuses_at_once() -> None:
    async with serving(Settings(max_waiting_images=2, workers=2)) as served:
        served.segmenter.gate.clear()
        waiting = start(served.embed(picture(shade=1)), served.embed(picture(shade=2)))
        await until(lambda: len(served.service._encodings) == 2)
        refused = await served.embed(picture(shade=3))
        assert error(refused) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert "SAM2_MAX_WAITING_IMAGES" in refused.json()["error"]["message"]
        joined = start(served.embed(picture(shade=2)))  # no work of its own
        await until(lambda: sum(e.callers for e in served.service._encodings._running.values()) == 3)
        served.segmenter.gate.set()
        assert [(await call).status_code for call in waiting + joined] == [200] * 3


async def test_more_pictures_than_are_decoded_ahead_are_all_embedded() -> None:
    async with serving() as served:
        served.segmenter.gate.clear()
        uploads = start(*(served.embed(picture(shade=shade)) for shade in range(12)))
        await until(lambda: len(served.service._encodings) == 12)
        served.segmenter.gate.set()
        assert [(await upload).status_code for upload in uploads] == [200] * 12
        assert len(served.segmenter.encoded) == 12


async def test_an_encode_that_fails_is_answered_to_all_and_the_next_one_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as served:
        served.segmenter.gate.clear()
        served.segmenter.fail_next = RuntimeError("out of memory")
        uploads = start(*(served.embed(picture()) for _ in range(3)))
        await until(lambda: sum(e.callers for e in served.service._encodings._running.values()) == 3)
        served.segmenter.gate.set()
        for upload in uploads:
            response = await upload
            assert error(response) == (500, "inference_failed")
            assert "out of memory" not in response.text  # the log says it
        assert "out of memory" in caplog.text
        assert (await served.client.get("/images")).json()["images"] == []
        assert (await served.embed(picture())).json()["cached"] is False


async def test_a_decode_that_fails_is_answered_to_all_and_the_next_one_works() -> None:
    async with serving() as served:
        blocking = await block(served)
        clicks = start(*(served.click("blocked") for _ in range(3)))
        await until(lambda: waiting_prompts(served) == 3)
        served.segmenter.fail_next = RuntimeError("broken")  # the running batch; and then another
        served.segmenter.gate.set()
        assert error(await blocking) == (500, "inference_failed")
        assert [(await click).status_code for click in clicks] == [200] * 3
        served.segmenter.fail_next = ValueError("broken")
        assert error(await served.click("blocked")) == (500, "inference_failed")
        assert (await served.click("blocked")).status_code == 200


async def test_a_bad_picture_spoils_nobody_elses_batch() -> None:
    async with serving(Settings(batch_images=4, workers=2)) as served:
        served.segmenter.gate.clear()
        uploads = start(
            served.embed(picture(shade=1)), served.embed(picture()[:-20]), served.embed(picture(shade=2))
        )
        assert error(await uploads[1]) == (422, "invalid_image")
        served.segmenter.gate.set()
        assert (await uploads[0]).status_code == (await uploads[2]).status_code == 200


async def test_an_encoding_goes_on_for_those_who_joined_when_its_first_caller_leaves() -> None:
    async with serving() as served:
        served.segmenter.gate.clear()
        first, second = start(served.embed(picture()), served.embed(picture()))
        await until(lambda: sum(e.callers for e in served.service._encodings._running.values()) == 2)
        first.cancel()
        await until(lambda: sum(e.callers for e in served.service._encodings._running.values()) == 1)
        served.segmenter.gate.set()
        assert (await second).status_code == 200
        assert len(served.segmenter.encoded) == 1


async def test_a_failure_that_nobody_is_left_to_hear_is_no_complaint_of_asyncio() -> None:
    """The caller leaves in the moment in which the encoding fails; conftest.py looks for complaints."""
    async with serving() as served:
        served.segmenter.gate.clear()
        served.segmenter.fail_next = RuntimeError("broken")
        (upload,) = start(served.embed(picture()))
        await served.segmenter.wait_until_entered()
        (encoding,) = served.service._encodings._running.values()
        encoding.task.add_done_callback(lambda _: upload.cancel())
        del encoding
        served.segmenter.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await upload
        assert (await served.embed(picture())).status_code == 200


async def test_an_encoding_that_nobody_waits_for_is_given_up() -> None:
    async with serving(Settings(max_waiting_images=2, workers=2)) as served:
        blocking = await block(served)
        uploads = start(served.embed(picture(shade=1)), served.embed(picture(shade=1)))
        await until(lambda: served.service._encoder.waiting == 1)
        for upload in uploads:
            upload.cancel()
        await until(lambda: served.service._encoder.waiting == 0)
        (again,) = start(served.embed(picture(shade=1)))
        await until(lambda: served.service._encoder.waiting == 1)
        served.segmenter.gate.set()
        assert (await again).json()["cached"] is False
        assert (await blocking).status_code == 200
        assert len(served.segmenter.encoded) == 2


@pytest.mark.parametrize("path", ["/embed", "/decode"])
async def test_a_client_that_disconnects_frees_its_place(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """As a server tells it: `receive` yields http.disconnect."""
    caplog.set_level(logging.INFO)
    body = picture() if path == "/embed" else b'{"image_id": "blocked", "box": [1, 2, 3, 4]}'
    gone = asyncio.Event()
    # Uvicorn may yield an empty piece after the last one.
    messages = [{"type": "http.request", "body": piece, "more_body": False} for piece in (b"", body)]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"image/png")],
    }
    async with serving() as served:
        blocking = await block(served)
        request = asyncio.create_task(served.app(scope, receive, send))
        queue = served.service._encoder if path == "/embed" else served.service._decoder
        await until(lambda: queue.waiting == 1)
        gone.set()
        await until(lambda: queue.waiting == 0)
        await request
        assert sent[0]["status"] == 499
        assert f"POST {path} 499" in caplog.text
        served.segmenter.gate.set()
        assert (await blocking).status_code == 200
        assert len(served.segmenter.decoded) == 1
        assert (await served.embed(picture())).status_code == 200


async def test_a_client_that_leaves_in_the_middle_of_its_body_holds_nothing() -> None:
    messages = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0)

    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/embed", "query_string": b"", "headers": []}
    async with serving() as served:
        await served.app(scope, receive, send)
        assert sent[0]["status"] == 400
        assert served.app.state.body_budget.used_bytes == 0


async def test_memory_for_embeddings_is_bounded_and_the_least_recently_used_goes_first() -> None:
    # 120 * 120 cells of 8 + 4 * 2 + 4 * 4 floats of 4 bytes: 1.8 MB
    async with serving(Settings(device_cache_mib=4, workers=2), FakeSegmenter(embedding_side=120)) as served:
        for name in ("a", "b"):
            await served.embed(picture(shade=ord(name)), name)
        assert (await served.click("a")).status_code == 200  # now b is the least recently used
        await served.embed(picture(shade=ord("c")), "c")
        found = {name: (await served.click(name)).status_code for name in "abc"}
        assert found == {"a": 200, "b": 404, "c": 200}
        assert served.service.store.tiers.device.used_bytes <= 4 * 2**20
        listed = (await served.client.get("/images")).json()["images"]
        assert [(image["image_id"], image["tiers"]) for image in listed] == [
            ("c", ["device"]),
            ("b", []),  # its name is still known
            ("a", ["device"]),
        ]
        assert 'sam2_evictions_total{tier="device"} 1.0' in (await served.client.get("/metrics")).text
        again = await served.embed(picture(shade=ord("b")), "b")
        assert (again.status_code, again.json()["cached"]) == (200, False)
        assert (await served.click("b")).status_code == 200


async def test_an_embedding_larger_than_all_memory_is_kept_until_the_next() -> None:
    async with serving(Settings(device_cache_mib=1, workers=2), FakeSegmenter(embedding_side=120)) as served:
        for name in ("a", "b"):
            assert (await served.embed(picture(shade=ord(name)), name)).status_code == 200
            assert (await served.click(name)).status_code == 200
        assert (await served.click("a")).status_code == 404


async def test_an_embedding_that_is_evicted_before_its_caller_hears_of_it_is_kept_for_it() -> None:
    async with serving() as served:
        served.segmenter.gate.clear()
        (upload,) = start(served.embed(picture(), "truck"))
        await served.segmenter.wait_until_entered()
        ((content, encoding),) = served.service._encodings._running.items()
        encoding.task.add_done_callback(lambda _: served.service.store.tiers.drop(content))
        served.segmenter.gate.set()
        assert (await upload).status_code == 200
        assert (await served.click("truck")).status_code == 200


async def test_a_picture_that_is_deleted_while_it_is_clicked_is_still_answered() -> None:
    async with serving() as served:
        blocking = await block(served)
        assert (await served.client.delete("/images/blocked")).status_code == 204
        assert error(await served.click("blocked")) == (404, "image_not_found")
        served.segmenter.gate.set()
        assert (await blocking).status_code == 200


async def test_stopping_answers_all_who_wait_and_finishes_what_runs() -> None:
    async with serving() as served:
        blocking = await block(served)
        waiting = start(served.click("blocked"), *(served.embed(picture(shade=shade)) for shade in range(12)))
        await until(lambda: len(served.service._encodings) == 12 and waiting_prompts(served) == 1)
        served.service.drain()
        for call in waiting:
            response = await call
            assert error(response) == (503, "shutting_down")
            assert int(response.headers["retry-after"]) >= 1
        for response in (
            await served.click("blocked"),
            await served.embed(picture()),
            await served.client.get("/readyz"),
        ):
            assert error(response) == (503, "shutting_down")
        assert (await served.client.get("/healthz")).status_code == 200
        assert not blocking.done()
        served.segmenter.gate.set()
        assert (await blocking).status_code == 200


async def test_a_device_that_hangs_does_not_keep_the_server_from_stopping(
    caplog: pytest.LogCaptureFixture,
) -> None:
    segmenter = FakeSegmenter()
    app = create_app(Settings(deadline_s=0.1, workers=2), segmenter)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sam2")
    async with client, app.router.lifespan_context(app):
        served = Served(app, client, segmenter)
        await until(lambda: served.service._segmenter is not None)
        segmenter.gate.clear()
        assert error(await served.embed(picture())) == (504, "deadline_exceeded")
    assert "still busy after 0.1 s" in caplog.text
    segmenter.gate.set()
    await served.service.close()
