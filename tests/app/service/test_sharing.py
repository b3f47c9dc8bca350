"""Many concurrent callers: shared work, order, rejections, and the state after a failure."""

import pytest

from app.settings import Settings
from tests.app.requests_under_way import block, start, waiting_prompts
from tests.fakes import FakeSegmenter, error, picture, serving, until


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
        assert alone.json() == replies[7].json()  # each got the answer to its own click


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
        assert len(served.segmenter.decoded) == 2  # the late click was dropped, because nobody waited for it


async def test_a_full_queue_of_prompts_refuses_at_once() -> None:
    async with serving(Settings(max_waiting_prompts=2, max_prompts=2, workers=2)) as served:
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
        joined = start(served.embed(picture(shade=2)))  # needs no encode of its own
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
            assert "out of memory" not in response.text  # it is only in the log
        assert "out of memory" in caplog.text
        assert (await served.client.get("/images")).json()["images"] == []
        assert (await served.embed(picture())).json()["cached"] is False


async def test_a_decode_that_fails_is_answered_to_all_and_the_next_one_works() -> None:
    async with serving() as served:
        blocking = await block(served)
        clicks = start(*(served.click("blocked") for _ in range(3)))
        await until(lambda: waiting_prompts(served) == 3)
        served.segmenter.fail_next = RuntimeError("broken")  # fails the running batch, but not the next
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


@pytest.mark.parametrize(
    ("workers", "limit_pixels", "ahead"), [(2, 2400, 8), (20, 2400, 20), (20, 2399, 8), (99, 2400, 36)]
)
async def test_pictures_are_decoded_ahead_in_proportion_to_the_workers_within_a_budget(
    workers: int, limit_pixels: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight at a time are 70 photos of a phone per second, however many cores there are."""
    monkeypatch.setattr("app.service.encodings.SMALL_PIXELS", limit_pixels)  # the pictures have 60 * 40
    monkeypatch.setattr("app.service.encodings.SMALL_BYTES", 28 * 3 * limit_pixels)
    async with serving(Settings(workers=workers)) as served:
        served.segmenter.gate.clear()
        uploads = start(*(served.embed(picture(shade=shade)) for shade in range(40)))
        await served.segmenter.wait_until_entered()
        await until(lambda: served.service._encoder.waiting == ahead - 1)
        for _ in range(20):
            await served.client.get("/healthz")
        assert served.service._encoder.waiting == ahead - 1
        served.segmenter.gate.set()
        assert {(await upload).status_code for upload in uploads} == {200}


@pytest.mark.parametrize("on_gpu", [False, True])
async def test_a_gpu_is_told_of_the_pictures_that_follow(on_gpu: bool) -> None:
    segmenter = FakeSegmenter()
    segmenter.shares_host_memory = not on_gpu
    async with serving(segmenter=segmenter) as served:
        served.segmenter.gate.clear()
        uploads = start(*(served.embed(picture(width=60 + i)) for i in range(4)))
        await served.segmenter.wait_until_entered()  # before that, three may wait without the fourth
        await until(lambda: served.service._encoder.waiting == 3)
        served.segmenter.gate.set()
        assert {(await upload).status_code for upload in uploads} == {200}
    assert len(segmenter.expected) == (4 if on_gpu else 0)
    order = [size for (size,) in segmenter.encoded]
    for place, expected in enumerate(segmenter.expected):
        assert expected == order[place + 1 :]
