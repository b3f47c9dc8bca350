"""One client floods the server, another clicks: the order, the rejections and their Retry-After."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from app.codecs.images import decode_image
from app.errors import Overloaded, RateLimited
from app.middleware import rates
from app.middleware.rates import InFlight, PicturesPerMinute
from app.scheduling.batching import Batcher
from app.scheduling.device import DeviceThread
from app.service import encodings
from app.settings import Settings
from tests.app.scheduling.gated_device import LONG_S, outcomes, started, submitted
from tests.fakes import Served, error, picture, serving, until

KEYS = {name: f"{name}-0123456789abcdef" for name in ("crowd", "guest", "third")}


def settings(**others: Any) -> Settings:
    """Settings with three API keys."""
    pairs = ",".join(f"{name}:{key}" for name, key in KEYS.items())
    return Settings(**{"api_keys": pairs, "workers": 2} | others)


class Clients:
    """One client for each API key of a service."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.crowd, self.guest, self.third = (self._client(name) for name in KEYS)

    def _client(self, name: str) -> Served:
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.served.app),
            base_url="http://localhost",
            headers={"X-API-Key": KEYS[name]},
        )
        return Served(self.served.app, client, self.served.segmenter)


def start(*calls: Any) -> list["asyncio.Task[httpx.Response]"]:
    """Start requests as tasks."""
    return [asyncio.create_task(call) for call in calls]


def waiting(served: Served) -> tuple[int, int]:
    """Return the numbers of pictures and prompts in the queues."""
    return len(served.service._encodings), served.service._decoder.waiting


async def test_a_lone_item_is_in_the_next_batch_whatever_another_share_has_waiting() -> None:
    async with started() as device:
        batcher = device.batcher(max_batch=4)
        await device.block(batcher)
        crowd = [batcher.submit(f"c{number}", deadline_s=LONG_S, share="crowd") for number in range(20)]
        tasks = await submitted(
            *crowd,
            batcher.submit_all(["g0", "g1", "g2"], deadline_s=LONG_S, share="guest"),
            batcher.submit("t0", deadline_s=LONG_S, share="third"),
        )
        device.gate.set()
        await outcomes(tasks)
    assert device.batches[1:4] == [
        ["c0", "g0", "t0", "c1"],
        ["g1", "c2", "g2", "c3"],
        ["c4", "c5", "c6", "c7"],
    ]


async def test_a_full_share_of_a_queue_leaves_room_for_others() -> None:
    async with started() as device:
        batcher = device.batcher(max_waiting=12)
        await device.block(batcher)
        tasks = await submitted(batcher.submit_all(["c"] * 12, deadline_s=LONG_S, share="crowd"))
        with pytest.raises(Overloaded, match="holds 12 of at most 12 items; 1 more"):
            await batcher.submit("c", deadline_s=LONG_S, share="crowd")
        tasks += await submitted(batcher.submit_all(["g"] * 3, deadline_s=LONG_S, share="guest"))
        with pytest.raises(
            Overloaded, match="holds 3 of at most 12 items of yours, and 12 of others; 2 more"
        ):
            await batcher.submit_all(["g"] * 2, deadline_s=LONG_S, share="guest")
        assert batcher.waiting == 15
        tasks[0].cancel()
        await outcomes(tasks[:1])
        assert batcher.waiting == 3
        tasks += await submitted(batcher.submit_all(["g"] * 2, deadline_s=LONG_S, share="guest"))
        device.gate.set()
        await outcomes(tasks[1:])
        assert batcher.waiting == 0


async def test_a_drained_queue_of_many_shares_is_empty() -> None:
    thread = DeviceThread()
    run: Callable[[Sequence[str]], Sequence[str]] = list
    batcher = Batcher(run, name="t", device=thread, priority=0, max_batch=2, max_waiting=9)
    tasks = await submitted(*(batcher.submit(s, deadline_s=LONG_S, share=s) for s in "abab"))
    batcher.drain()
    await outcomes(tasks)
    assert batcher.waiting == 0
    assert batcher._calls == {}


async def test_a_first_click_and_a_first_picture_wait_for_one_batch_though_hundreds_of_uploads_came_before() -> (
    None
):
    async with serving(settings(max_waiting_images=200)) as served:
        clients = Clients(served)
        await clients.guest.embed(picture(shade=255), "mine")
        await served.segmenter.wait_until_entered()
        served.segmenter.gate.clear()
        flood = start(*(clients.crowd.embed(picture(20 + n // 40, 20 + n % 40)) for n in range(200)))
        await served.segmenter.wait_until_entered()
        await until(lambda: waiting(served)[0] == 200)
        first = start(clients.guest.embed(picture(7, 5)), clients.guest.click("mine"))
        await until(lambda: served.service._encoder.waiting == 7 + 1 and waiting(served)[1] == 1)
        served.segmenter.gate.set()
        replies = await asyncio.gather(*first)
        assert [reply.status_code for reply in replies] == [200, 200]
        # The batches: that of "mine", the running one, the guest's. The click overtook the running one.
        assert [batch[0] for batch in served.segmenter.encoded].index((5, 7)) <= 2
        assert served.segmenter.order.index("decode") <= 3
        assert [(await upload).status_code for upload in flood] == [200] * 200


async def test_a_flood_of_uploads_is_refused_beyond_its_share_and_nobody_else_is() -> None:
    # Who would miss the deadline at the measured pace is refused, too, and the time at the gate is in that pace.
    async with serving(settings(max_waiting_images=6, deadline_s=60 * LONG_S)) as served:
        clients = Clients(served)
        served.segmenter.gate.clear()
        flood = start(*(clients.crowd.embed(picture(shade=shade)) for shade in range(20)))
        await until(lambda: sum(upload.done() for upload in flood) == 14)
        for upload in flood:
            if upload.done():
                assert error(await upload) == (503, "overloaded")
                assert int((await upload).headers["retry-after"]) >= 1
        (guest,) = start(clients.guest.embed(picture(shade=100)))
        await until(lambda: waiting(served)[0] == 7)
        served.segmenter.gate.set()
        assert (await guest).status_code == 200
        assert sorted([(await upload).status_code for upload in flood]) == [200] * 6 + [503] * 14
        assert served.service._encodings._waiting_images.used == 0


async def test_a_picture_that_was_admitted_is_not_refused_because_another_was_decoded_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_be_read = threading.Event()

    def slow_at_the_crowds_last(data: bytes, **options: Any) -> Any:
        image = decode_image(data, **options)
        assert image.shape[:2] != (7, 7) or may_be_read.wait(LONG_S)
        return image

    monkeypatch.setattr(encodings, "decode_image", slow_at_the_crowds_last)
    async with serving(settings(max_waiting_images=6, deadline_s=60 * LONG_S)) as served:
        clients, encoder = Clients(served), served.service._encoder
        await clients.third.embed(picture(), "truck")
        await served.segmenter.wait_until_entered()
        served.segmenter.gate.clear()
        click = start(clients.third.click("truck"))
        await served.segmenter.wait_until_entered()  # so the device takes no picture
        crowd = start(*(clients.crowd.embed(picture(shade=1 + n)) for n in range(5)))
        crowd += start(clients.crowd.embed(picture(7, 7)))
        await until(lambda: encoder.waiting == 5 and waiting(served)[0] == 6)
        guest = start(clients.guest.embed(picture(8, 8)))
        await until(lambda: encoder.waiting == 6)
        may_be_read.set()
        await until(lambda: encoder.waiting == 7 or crowd[-1].done())
        served.segmenter.gate.set()
        for reply in [await each for each in click + crowd + guest]:
            assert reply.status_code == 200, reply.text


async def test_a_flood_of_clicks_is_refused_beyond_its_share_and_nobody_else_is() -> None:
    async with serving(settings(max_waiting_prompts=6, max_prompts=6)) as served:
        clients = Clients(served)
        await clients.guest.embed(picture(), "truck")
        await clients.crowd.embed(picture(), "truck")
        for _ in range(2):  # the encoder ran once for each: tenants share no embeddings
            await served.segmenter.wait_until_entered()
        served.segmenter.gate.clear()
        running = start(clients.crowd.click("truck"))
        await served.segmenter.wait_until_entered()
        flood = start(*(clients.crowd.click("truck") for _ in range(20)))
        await until(lambda: sum(click.done() for click in flood) == 14)
        guest = start(clients.guest.click("truck"))
        await until(lambda: waiting(served)[1] == 7)
        served.segmenter.gate.set()
        assert [(await click).status_code for click in running + guest] == [200, 200]
        assert sorted([(await click).status_code for click in flood]) == [200] * 6 + [503] * 14


async def test_bodies_of_one_client_leave_room_for_anothers() -> None:
    async with serving(settings(max_upload_mib=1, max_bodies_mib=1)) as served:
        clients = Clients(served)
        served.segmenter.gate.clear()
        small = picture()
        big = start(clients.crowd.embed(small + bytes(2**20 - len(small))))
        await served.segmenter.wait_until_entered()
        assert error(await clients.crowd.embed(small)) == (503, "overloaded")
        other = start(clients.guest.embed(picture(shade=1) + bytes(100_000)))
        await until(lambda: waiting(served)[0] == 2)
        served.segmenter.gate.set()
        assert [(await upload).status_code for upload in big + other] == [200, 200]
        assert served.app.state.body_budget.used_bytes == 0


async def test_requests_at_one_time_are_bounded_for_each_client() -> None:
    async with serving(settings(rate_requests_in_flight=2)) as served:
        clients = Clients(served)
        served.segmenter.gate.clear()
        running = start(*(clients.crowd.embed(picture(shade=shade)) for shade in (1, 2)))
        await until(lambda: waiting(served)[0] == 2)
        for refused in (await clients.crowd.client.get("/images"), await clients.crowd.embed(picture())):
            assert error(refused) == (429, "rate_limited")
            assert int(refused.headers["retry-after"]) == 1
            assert "SAM2_RATE_REQUESTS_IN_FLIGHT" in refused.json()["error"]["message"]
        assert (await clients.crowd.client.get("/healthz")).status_code == 200
        assert (await clients.guest.client.get("/images")).status_code == 200
        served.segmenter.gate.set()
        assert [(await upload).status_code for upload in running] == [200, 200]
        assert (await clients.crowd.client.get("/images")).status_code == 200


def test_a_request_that_fails_is_not_counted_any_more() -> None:
    in_flight = InFlight(1)
    with pytest.raises(ZeroDivisionError), in_flight.request("a"):
        raise ZeroDivisionError
    with in_flight.request("a"), in_flight.request("b"), pytest.raises(RateLimited), in_flight.request("a"):
        pass
    assert in_flight._held == {}


async def test_new_pictures_in_a_minute_are_bounded_for_each_client(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(rates, "monotonic", lambda: now)
    async with serving(settings(rate_pictures_per_minute=3)) as served:
        clients = Clients(served)
        for shade in range(3):
            assert (await clients.crowd.embed(picture(shade=shade), f"p{shade}")).status_code == 200
        refused = await clients.crowd.embed(picture(shade=3))
        assert error(refused) == (429, "rate_limited")
        assert "3 new pictures a minute" in refused.json()["error"]["message"]
        # Not counted: a known picture, a click, a picture of another client.
        assert (await clients.crowd.embed(picture(shade=0))).json()["cached"] is True
        assert (await clients.crowd.click("p0")).status_code == 200
        assert (await clients.guest.embed(picture(shade=9))).status_code == 200
        seconds = int(refused.headers["retry-after"])
        assert seconds == 20
        now += seconds - 1
        assert (await clients.crowd.embed(picture(shade=3))).status_code == 429
        now += 1
        assert (await clients.crowd.embed(picture(shade=3))).status_code == 200
        assert (await clients.crowd.embed(picture(shade=4))).status_code == 429


def take_all(bucket: PicturesPerMinute) -> None:
    """Take tokens until the bucket is empty."""
    while True:
        bucket.take("a")


@pytest.mark.parametrize("limit", [0.5, 1, 7, 60, 1000])
def test_retry_after_is_true(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(rates, "monotonic", lambda: now)
    bucket = PicturesPerMinute(limit)
    for _ in range(max(1, int(limit))):
        bucket.take("a")
    for _ in range(3):
        with pytest.raises(RateLimited) as refusal:
            take_all(bucket)
        now += refusal.value.retry_after_s
        bucket.take("a")
    now += 10_000  # full again, but not more than full
    for _ in range(max(1, int(limit))):
        bucket.take("a")
    with pytest.raises(RateLimited):
        bucket.take("a")


def test_shares_without_end_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(rates, "monotonic", lambda: now)
    bucket = PicturesPerMinute(60)
    for number in range(30_000):
        now += 0.01
        bucket.take(str(number))
    assert len(bucket._full_at) <= 10_000


def test_pictures_that_come_together_are_counted_together_or_not_at_all() -> None:
    bucket = PicturesPerMinute(4)
    bucket.take("anna", 3)
    with pytest.raises(RateLimited):
        bucket.take("anna", 2)
    bucket.take("anna")  # the two were not counted
    with pytest.raises(RateLimited):
        bucket.take("anna")
    bucket.take("bert", 20)  # more than a minute's, with a full bucket
    with pytest.raises(RateLimited):
        bucket.take("bert")
