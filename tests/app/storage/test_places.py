"""A device with few places for embeddings: the coldest is evicted; 503 only if all of them are in use."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures.thread import _WorkItem
from typing import Any

import pytest
import torch

from app.middleware.access import ANYONE
from app.settings import Settings
from app.telemetry.stages import StageTimes
from model.gpu.arena import Arena, SlotEmbedding
from model.network.config import HieraConfig, Sam2Config
from model.types import Embedding, Pixels, Prediction, Prompt
from tests.fakes import FakeSegmenter, error, picture, serving, until

CONFIG = Sam2Config(
    HieraConfig(embed_dim=8, num_heads=1, stages=(1, 1, 1, 1), global_attention_blocks=()), image_size=32
)

MAPS = ("image_rows", "feat_s1_rows", "feat_s0_rows")


class SmallDevice(FakeSegmenter):
    """Keeps its embeddings in an arena that holds fewer than the store would."""

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.arena = Arena(CONFIG, slots=slots, device=torch.device("cpu"), dtype=torch.float32)

    def encode(
        self, images: Sequence[Pixels], *, between: Callable[[], None] = lambda: None
    ) -> list[Embedding]:
        """Encode like the fake, but into slots."""
        slots = self.arena.claim(len(images))
        made = super().encode(images, between=between)
        return [
            self.arena.embedding(slot, height=e.height, width=e.width)
            for slot, e in zip(slots, made, strict=True)
        ]

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        """Decode like the fake. Embeddings from outside the arena are copied into slots."""
        held = [
            self.arena.adopt(e) if self.arena.slot_of(e) is None else None for e, _ in jobs
        ]  # like the real device
        predictions = super().decode(jobs)
        held.clear()
        return predictions


async def test_the_embedding_that_was_unused_longest_gives_way() -> None:
    device = SmallDevice(slots=3)
    async with serving(segmenter=device) as served:
        for shade in range(3):
            assert (await served.embed(picture(shade=shade), f"p{shade}")).status_code == 200
        assert (await served.click("p0")).status_code == 200  # p1 is the coldest now
        assert (await served.embed(picture(shade=3), "p3")).status_code == 200
        assert error(await served.click("p1")) == (404, "image_not_found")
        for image_id in ("p0", "p2", "p3"):
            assert (await served.click(image_id)).status_code == 200
        figures = (await served.client.get("/metrics")).text
        assert 'sam2_evictions_total{tier="device"} 1.0' in figures
        assert 'sam2_out_of_memory_total{queue="encode"} 0.0' in figures
        assert device.arena.num_free == 0
        for image_id in ("p0", "p2", "p3"):
            await served.client.delete(f"/images/{image_id}")
        assert device.arena.num_free == 3


async def test_where_prompts_wait_for_every_embedding_the_client_is_told_to_come_again() -> None:
    device = SmallDevice(slots=1)
    async with serving(segmenter=device) as served:
        await served.embed(picture(shade=1), "first")
        device.gate.clear()
        click = asyncio.create_task(served.click("first"))
        await device.wait_until_entered()
        upload = asyncio.create_task(served.embed(picture(shade=2), "second"))
        await asyncio.sleep(0.05)
        held = await served.service.find("first", tenant=ANYONE, times=StageTimes(), share=ANYONE)
        device.gate.set()
        assert (await click).status_code == 200
        full = await upload
        assert error(full) == (503, "overloaded")
        assert int(full.headers["retry-after"]) >= 1
        del held
        assert (await served.embed(picture(shade=2), "second")).status_code == 200


async def test_a_prompt_on_an_embedding_that_finds_no_place_is_told_to_come_again() -> None:
    device = SmallDevice(slots=1)
    arena = device.arena
    async with serving(segmenter=device) as served:
        await served.embed(picture(shade=1), "first")
        ((content, entry),) = served.service.store.tiers.device._embeddings.items()
        cells = CONFIG.embedding_size**2
        del entry
        served.service.store.tiers.device._embeddings[content] = Embedding(
            image_rows=torch.zeros(cells, 256),
            feat_s1_rows=torch.zeros(cells, 4, 64),
            feat_s0_rows=torch.zeros(cells, 4, 4, 32),
            first_projections=(),
            height=40,
            width=60,
        )
        await until(lambda: arena.num_free == 1)  # the thread that made the embedding has released it
        slots = arena.claim(1)
        assert error(await served.click("first")) == (503, "overloaded")
        arena.release(slots)
        assert (await served.embed(picture(shade=1), "first")).status_code == 200  # it was evicted itself
        assert (await served.click("first")).status_code == 200


def copied(embedding: Embedding) -> Embedding:
    """Copy an embedding to the host, which takes as long as with a real one."""
    time.sleep(0.01)
    maps = {name: getattr(embedding, name).clone() for name in MAPS}
    return Embedding(**maps, first_projections=(), height=embedding.height, width=embedding.width)


class SmallGpu(SmallDevice):
    """A device with its own memory: embeddings that leave it move to the host."""

    shares_host_memory = False

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.adopted = 0

    def adopt(self, embedding: Embedding) -> Embedding:
        """Copy the embedding into a slot."""
        adopted = self.arena.adopt(embedding)
        self.adopted += 1
        return adopted


@pytest.mark.parametrize("batch_images", [1, 4])
async def test_nothing_is_lost_on_its_way_from_a_full_device_to_the_host(
    batch_images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place is free only when its embedding has arrived on the host. Until then no other one needs to leave."""
    monkeypatch.setattr(SlotEmbedding, "to_host", copied, raising=False)
    device = SmallGpu(slots=8)
    async with serving(Settings(workers=2, batch_images=batch_images), segmenter=device) as served:
        for start in range(0, 24, 4):
            uploads = [served.embed(picture(shade=start + i), f"p{start + i}") for i in range(4)]
            assert [reply.status_code for reply in await asyncio.gather(*uploads)] == [200] * 4
        store = served.service.store
        assert store.tiers.num_images("device") >= 4
        for shade in (*range(24), 0):
            assert (await served.click(f"p{shade}")).status_code == 200
        assert device.adopted >= 16
        assert sum(len(batch) for batch in device.encoded) == 24


async def test_a_place_is_free_although_the_thread_that_emptied_it_is_late_to_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread of a pool holds its job for a moment after it has told that it is done: the next upload got 503."""
    run = _WorkItem.run

    def run_and_rest(*given: Any) -> None:
        run(*given)
        time.sleep(0.05)

    monkeypatch.setattr(SlotEmbedding, "to_host", copied, raising=False)
    monkeypatch.setattr(_WorkItem, "run", run_and_rest)
    async with serving(segmenter=SmallGpu(slots=1)) as served:
        for shade in range(3):
            assert (await served.embed(picture(shade=shade))).status_code == 200


@pytest.mark.parametrize("count", [1, 2])
async def test_several_uploads_at_once_find_room(count: int) -> None:
    device = SmallDevice(slots=4)
    async with serving(Settings(workers=2, batch_images=count), segmenter=device) as served:
        for round_ in range(4):
            uploads = [served.embed(picture(shade=10 * round_ + i), f"{round_}-{i}") for i in range(2)]
            assert [reply.status_code for reply in await asyncio.gather(*uploads)] == [200, 200]
