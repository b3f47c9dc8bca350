"""Uploads on a busy server: rejection of those that would miss the deadline, and fair turns for the others."""

import threading

import pytest

from app.codecs.answers import MaskOptions
from app.codecs.prompts import PromptRequest
from app.scheduling import device as device_module
from app.scheduling.deadlines import within
from app.service import encodings
from app.settings import Settings
from app.telemetry.stages import StageTimes
from tests.app.scheduling.gated_device import LONG_S, outcomes, started, submitted
from tests.app.scheduling.test_fair_shares import Clients, settings, start
from tests.fakes import FakeSegmenter, Served, error, picture, serving, until


class Encoder:
    """Each encode waits for a permit, then advances a clock, which otherwise stands still, by `seconds`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.seconds = 8.0
        self.permits = threading.Semaphore(0)
        self.segmenter = FakeSegmenter(hold=self._hold)
        monkeypatch.setattr(encodings, "monotonic", lambda: self.now)

    def _hold(self) -> None:
        assert self.permits.acquire(timeout=LONG_S)
        self.now += self.seconds

    async def measure(self, served: Served, number: int = 2) -> None:
        """Let the server complete `number` uploads, one after the other."""
        for shade in range(number):
            self.permits.release()
            assert (await served.embed(picture(100 + shade, 50))).status_code == 200


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """The encoder of the server."""
    return Encoder(monkeypatch)


def on_the_way(served: Served) -> int:
    """Return the number of pictures that are not embedded yet."""
    return len(served.service._encodings)


async def test_an_upload_that_cannot_be_embedded_in_time_is_refused_at_once_and_a_guests_is_not(
    encoder: Encoder,
) -> None:
    async with serving(settings(deadline_s=30), encoder.segmenter) as served:
        clients = Clients(served)
        await encoder.measure(clients.crowd)
        running = start(*(clients.crowd.embed(picture(shade=shade)) for shade in (1, 2)))
        await until(lambda: on_the_way(served) == 2)
        refused = await clients.crowd.embed(picture(shade=3))  # 8 s for each of three; the limit is 20 s
        assert error(refused) == (503, "overloaded")
        assert "24.0 s" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) == 5
        running += start(clients.guest.embed(picture(shade=4)))
        await until(lambda: on_the_way(served) == 3)
        encoder.seconds = 1
        for _ in running:
            encoder.permits.release()
        assert [(await upload).status_code for upload in running] == [200] * 3


async def test_a_lone_upload_is_let_in_however_slow_the_last_ones_were(encoder: Encoder) -> None:
    async with serving(Settings(deadline_s=30, workers=2), encoder.segmenter) as served:
        encoder.seconds = 50
        await encoder.measure(served, 4)


async def test_an_upload_that_cannot_be_in_time_any_more_is_told_so(encoder: Encoder) -> None:
    encoder.seconds = 10
    async with serving(Settings(deadline_s=30, workers=2), encoder.segmenter) as served:
        uploads = start(*(served.embed(picture(shade=shade)) for shade in range(5)))
        await until(lambda: on_the_way(served) == 5)
        for done in range(2):  # one measurement is not enough for a pace
            encoder.permits.release()
            await until(lambda done=done: sum(upload.done() for upload in uploads) > done)
        # 10 s are left, and the third picture needs all of them. The last one is kept in any case.
        await until(lambda: on_the_way(served) == 1)
        refused = [await upload for upload in uploads if upload.done()]
        refused = [reply for reply in refused if reply.status_code != 200]
        assert [error(reply) for reply in refused] == [(503, "overloaded")] * 2
        assert int(refused[0].headers["retry-after"]) >= 1
        for _ in range(3):
            encoder.permits.release()
        assert sorted([(await upload).status_code for upload in uploads]) == [200] * 3 + [503] * 2


async def test_a_full_queue_of_pictures_says_when_it_will_be_empty(encoder: Encoder) -> None:
    async with serving(Settings(max_waiting_images=2, workers=2), encoder.segmenter) as served:
        await encoder.measure(served)
        uploads = start(*(served.embed(picture(shade=shade)) for shade in range(2)))
        await until(lambda: on_the_way(served) == 2)
        refused = await served.embed(picture(shade=3))
        assert int(refused.headers["retry-after"]) == 16
        for _ in uploads:
            encoder.permits.release()
        assert [(await upload).status_code for upload in uploads] == [200, 200]


async def test_pictures_that_are_encoded_together_are_one_measure(encoder: Encoder) -> None:
    """Their replies come at the same moment, so the gaps between them say nothing about the pace."""
    async with serving(Settings(deadline_s=30, workers=4, batch_images=4), encoder.segmenter) as served:
        for first in (0, 10):
            blocking = start(served.embed(picture(shade=first)))
            await served.segmenter.wait_until_entered()
            uploads = start(*(served.embed(picture(shade=first + number)) for number in range(1, 5)))
            await until(lambda: served.service._encoder.waiting == 4)
            for _ in range(2):
                encoder.permits.release()
            assert [(await upload).status_code for upload in blocking + uploads] == [200] * 5
            await served.segmenter.wait_until_entered()  # the batch of four
        assert [len(batch) for batch in served.segmenter.encoded] == [1, 4, 1, 4]
        assert served.service._encodings._pace.seconds(4, at=encoder.now) == 16  # five, in two batches


async def test_a_request_is_held_against_what_is_left_of_its_deadline() -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        left: list[float] = []
        submit_all = served.service._decoder.submit_all

        async def note(*arguments: object, deadline_s: float, share: str) -> object:
            left.append(deadline_s)
            return await submit_all(*arguments, deadline_s=deadline_s, share=share)  # type: ignore[arg-type]

        served.service._decoder.submit_all = note  # type: ignore[method-assign,assignment]
        async with within(5):
            await served.service.decode(
                "truck",
                [PromptRequest(point_coords=((1.0, 1.0),), point_labels=(1,))],
                options=MaskOptions(),
                tenant="",
                times=StageTimes(),
                share="",
            )
        assert 0 < left[0] <= 5


async def test_clicks_without_end_do_not_keep_a_picture_from_beginning() -> None:
    async with started() as device:
        encode = device.batcher(name="encode", priority=1, max_batch=1)
        decode = device.batcher(name="decode", priority=0, max_batch=1)
        await device.block(decode)
        tasks = await submitted(
            *(decode.submit(f"click {number}", deadline_s=LONG_S) for number in range(3)),
            *(encode.submit(f"picture {number}", deadline_s=LONG_S) for number in range(2)),
        )
        device.gate.set()
        await outcomes(tasks)
    ran = [item for (item,) in device.batches]
    assert ran == ["block", "picture 0", "click 0", "picture 1", "click 1", "click 2"]


@pytest.mark.parametrize(("most", "seconds"), [(device_module.OVERTAKEN, 4.0), (0.5, 0.5)])
async def test_clicks_that_pass_a_picture_leave_it_a_fifth_of_the_time_and_a_search_two_thirds(
    monkeypatch: pytest.MonkeyPatch, most: float, seconds: float
) -> None:
    now = 1000.0
    monkeypatch.setattr(device_module, "monotonic", lambda: now)
    async with started() as device:

        def encode_in_steps(pictures: list[str]) -> list[str]:
            nonlocal now
            for _ in range(100):
                now += 0.01
                device.thread.overtake(most)
            order.append("done")
            return pictures

        def decode_one(clicks: list[str]) -> list[str]:
            nonlocal now
            now += 0.08
            order.append("click")
            return clicks

        order: list[str] = []
        encode = device.batcher(encode_in_steps, name="encode", priority=1, max_batch=1)
        decode = device.batcher(decode_one, name="decode", priority=0, max_batch=1)
        picture_task = await device.block(encode)
        clicks = await submitted(*(decode.submit("click", deadline_s=LONG_S) for _ in range(100)))
        device.gate.set()
        await outcomes([picture_task, *clicks])
    # 1 s for the picture, and so much for clicks of 0.08 s.
    assert abs(order.index("done") - seconds / 0.08) <= 2
