"""A device without room for a batch: items that fit get results, the rest gets 503, the server continues."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from app.errors import Overloaded
from app.middleware.access import ANYONE
from app.scheduling.memory import SHED_FRACTION, WithinMemory
from app.settings import Settings
from model.errors import DeviceOutOfMemory, NoFreeSlot
from model.types import Embedding, Pixels, Prediction, Prompt
from tests.app.requests_under_way import block, start, waiting_prompts
from tests.fakes import FakeSegmenter, error, picture, serving, until


def never() -> bool:
    """`make_room` for devices that are not divided into places."""
    raise AssertionError


class Device:
    """Has room for a batch whose items add up to at most `room`."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int] = []
        self.shed: list[float] = []
        self.full = 0

    def run(self, items: Sequence[int]) -> list[int]:
        self.tried.append(len(items))
        if sum(items) > self.room:
            raise DeviceOutOfMemory("no room")
        return [-item for item in items]

    def answer(self, items: Sequence[int]) -> list[int | type]:
        """Return the results, with the type of the error for items that failed."""

        def shed(fraction: float) -> int:
            self.shed.append(fraction)
            return 1

        def count() -> None:
            self.full += 1

        answers = WithinMemory[int, int](self.run, make_room=never, shed=shed, on_full=count)(items)
        return [answer if isinstance(answer, int) else type(answer) for answer in answers]


def test_a_batch_that_fits_is_run_as_it_is() -> None:
    device = Device(room=8)
    assert device.answer([1] * 8) == [-1] * 8
    assert (device.tried, device.shed, device.full) == ([8], [], 0)


def test_a_batch_that_does_not_fit_runs_in_halves_after_room_was_made_once() -> None:
    device = Device(room=3)
    items = [1, 2, 1, 2, 1, 1, 1]
    assert device.answer(items) == [-item for item in items]
    assert device.tried == [7, 3, 1, 2, 4, 2, 2]
    assert (device.shed, device.full) == ([SHED_FRACTION], 1)


def test_an_item_that_does_not_fit_alone_is_refused_with_those_behind_it() -> None:
    device = Device(room=3)
    assert device.answer([1, 1, 9, 1]) == [-1, -1, Overloaded, Overloaded]
    assert device.tried == [4, 2, 2, 1]


def test_one_item_is_tried_once_more() -> None:
    device = Device(room=0)
    assert device.answer([1]) == [Overloaded]
    assert device.tried == [1, 1]


def test_other_failures_are_not_tried_again() -> None:
    def fail(items: Sequence[int]) -> list[int]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        WithinMemory[int, int](fail, make_room=never, shed=lambda share: 0, on_full=lambda: None)([1, 2])


def test_nothing_of_a_failed_attempt_is_held_during_the_next() -> None:
    class Tensor:
        pass

    held: list[weakref.ref[Tensor]] = []

    def run(items: Sequence[int]) -> list[int]:
        assert all(reference() is None for reference in held)
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        try:
            raise RuntimeError("as torch says it")
        except RuntimeError as failure:
            raise DeviceOutOfMemory("no room") from failure

    WithinMemory[int, int](run, make_room=never, shed=lambda share: 0, on_full=lambda: None)([1, 2, 3, 4])
    assert len(held) == 4 - 1


def test_places_are_made_one_by_one_until_the_batch_fits() -> None:
    free, cold, tried = 0, 5, 0

    def run(items: Sequence[int]) -> list[int]:
        nonlocal tried
        tried += 1
        if len(items) > free:
            raise NoFreeSlot("all places are held")
        return [-item for item in items]

    def make_room() -> bool:
        nonlocal free, cold
        free, cold = free + 1, cold - 1
        return cold >= 0

    def unexpected(*_: object) -> int:
        raise AssertionError

    within = WithinMemory[int, int](run, make_room=make_room, shed=unexpected, on_full=lambda: None)
    assert within([1, 2, 3]) == [-1, -2, -3]
    assert (free, cold, tried) == (3, 2, 4)


def test_where_no_place_can_be_made_the_batch_is_refused() -> None:
    def run(items: Sequence[int]) -> list[int]:
        raise NoFreeSlot("all places are held")

    within = WithinMemory[int, int](run, make_room=lambda: False, shed=lambda share: 0, on_full=lambda: None)
    assert [type(answer) for answer in within([1, 2])] == [Overloaded, Overloaded]


class SmallSegmenter(FakeSegmenter):
    """Runs out of memory for batches for which `fits` returns false."""

    def __init__(self) -> None:
        super().__init__()
        self.fits: Callable[[Sequence[object]], bool] = lambda batch: True

    def encode(self, images: Sequence[Pixels], *, between: Callable[[], None]) -> list[Embedding]:  # type: ignore[override]
        """Encode like the fake if the batch fits."""
        if not self.fits(images):
            raise DeviceOutOfMemory("no room")
        return super().encode(images, between=between)

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        """Decode like the fake if the batch fits."""
        if not self.fits([prompt for _, prompt in jobs]):
            raise DeviceOutOfMemory("no room")
        return super().decode(jobs)


async def test_a_request_of_many_prompts_is_answered_in_parts() -> None:
    async with serving(segmenter=SmallSegmenter()) as served:
        body = {"image_id": "truck", "prompts": [{"box": [x, 2, x + 9, 30]} for x in range(11)]}
        for shade, name in enumerate(["cold", "tepid", "truck"]):
            await served.embed(picture(shade=shade), name)
        whole = await served.post("/decode", body)
        served.segmenter.fits = lambda batch: len(batch) <= 3  # type: ignore[attr-defined]
        parts = await served.post("/decode", body)
        assert parts.json() == whole.json()
        assert [len(batch) for batch in served.segmenter.decoded[1:]] == [2, 3, 3, 3]
        assert (await served.client.get("/images/truck")).json()["tiers"] == ["device"]
        assert (await served.client.get("/images/cold")).json()["tiers"] == []
        assert error(await served.click("cold")) == (404, "image_not_found")
        figures = (await served.client.get("/metrics")).text
        assert 'sam2_out_of_memory_total{queue="decode"} 1.0' in figures
        assert 'sam2_evictions_total{tier="device"} 2.0' in figures


async def test_embeddings_in_memory_that_a_gpu_took_once_are_not_evicted(tmp_path: Path) -> None:
    """Evicting them frees no byte: a picture that is too large would cost everybody half of the cache."""
    segmenter = SmallSegmenter()
    segmenter.shares_host_memory = False
    async with serving(Settings(workers=2, cache_dir=str(tmp_path)), segmenter) as served:
        for shade, name in enumerate(["cold", "truck"]):
            await served.embed(picture(shade=shade), name)
        segmenter.fits = lambda batch: False
        assert error(await served.embed(picture(shade=2), "car")) == (503, "overloaded")
        for name in ("cold", "truck"):
            assert "device" in (await served.client.get(f"/images/{name}")).json()["tiers"]


async def test_of_those_who_share_a_batch_only_who_does_not_fit_is_refused() -> None:
    async with serving(segmenter=SmallSegmenter()) as served:
        blocking = await block(served)
        served.segmenter.fits = lambda batch: not any(p.points[0][0] == 13 for p in batch)  # type: ignore[attr-defined]
        clicks = start(*(served.click("blocked", x=x) for x in (11, 12, 13)))
        await until(lambda: waiting_prompts(served) == 3)
        served.segmenter.gate.set()
        answers = [await click for click in clicks]
        assert [answer.status_code for answer in answers] == [200, 200, 503]
        assert error(answers[2]) == (503, "overloaded")
        assert int(answers[2].headers["retry-after"]) >= 1
        assert (await blocking).status_code == 200


async def test_a_request_of_which_one_prompt_does_not_fit_is_refused_and_leaves_the_queue() -> None:
    async with serving(Settings(workers=2, batch_prompts=4), SmallSegmenter()) as served:
        blocking = await block(served)
        served.segmenter.fits = lambda batch: not any(p.box == (2, 2, 9, 30) for p in batch)  # type: ignore[attr-defined]
        boxes = {"image_id": "blocked", "prompts": [{"box": [x % 8, 2, 9, 30]} for x in range(64)]}
        (many,) = start(served.post("/decode", boxes))
        await until(lambda: waiting_prompts(served) == 64)
        served.segmenter.gate.set()
        assert error(await many) == (503, "overloaded")
        assert waiting_prompts(served) == 0
        assert len(served.segmenter.decoded) < 16
        assert (await blocking).status_code == 200
        served.segmenter.fits = lambda batch: True  # type: ignore[attr-defined]
        assert (await served.embed(picture(shade=1), "truck")).status_code == 200


@pytest.mark.parametrize("what", ["encode", "decode"])
async def test_a_server_out_of_memory_goes_on_when_there_is_some(what: str) -> None:
    async with serving(Settings(workers=2), SmallSegmenter()) as served:
        await served.embed(picture(shade=1), "truck")
        served.segmenter.fits = lambda batch: False  # type: ignore[attr-defined]
        call = served.click("truck") if what == "decode" else served.embed(picture(shade=2), "car")
        assert error(await call) == (503, "overloaded")
        assert (await served.client.get("/readyz")).status_code == 200
        served.segmenter.fits = lambda batch: True  # type: ignore[attr-defined]
        uploads = start(*(served.embed(picture(shade=s), name) for s, name in ((1, "truck"), (2, "car"))))
        replies = [await upload for upload in uploads]
        assert [reply.status_code for reply in replies] == [200, 200]
        assert (await served.click("truck")).status_code == 200


async def test_the_store_drops_the_coldest_first_and_no_more_than_was_asked() -> None:
    async with serving() as served:
        store = served.service.store
        for shade in range(4):
            await served.embed(picture(shade=shade), f"p{shade}")
        await served.click("p0")
        assert await store.shed(0.0) == 0
        assert await store.shed(0.5) == 2
        records = await store.describe_all(tenant=ANYONE, limit=9, after=None)
        assert [record.image_id for record in records if record.tiers] == ["p3", "p0"]
        assert await store.shed(1.0) == 2
        assert (store.tiers.used_bytes("device"), await store.shed(1.0)) == (0, 0)
