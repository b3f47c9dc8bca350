"""A device with few places for embeddings: the coldest leaves, and 503 only where somebody waits for every one."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from app.settings import Settings
from model.config import HieraConfig, Sam2Config
from model.gpu.arena import Arena
from model.types import Embedding, Pixels
from tests.fakes import FakeSegmenter, error, picture, serving, until

CONFIG = Sam2Config(
    HieraConfig(embed_dim=8, num_heads=1, stages=(1, 1, 1, 1), global_attention_blocks=()), image_size=32
)


class SmallDevice(FakeSegmenter):
    """Keeps its embeddings in an arena, fewer than the store would."""

    shares_host_memory = False

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.arena = Arena(CONFIG, slots=slots, device=torch.device("cpu"), dtype=torch.float32)
        self.adopted = 0

    def encode(
        self, images: Sequence[Pixels], *, between: Callable[[], None] = lambda: None
    ) -> list[Embedding]:
        """As the fake, but in slots."""
        slots = self.arena.claim(len(images))
        made = super().encode(images, between=between)
        return [
            self.arena.embedding(slot, height=e.height, width=e.width)
            for slot, e in zip(slots, made, strict=True)
        ]

    def adopt(self, embedding: Embedding) -> Embedding:
        """A copy in a slot."""
        adopted = self.arena.adopt(embedding)
        self.adopted += 1
        return adopted


def settings(**values: Any) -> Settings:
    return Settings(workers=2, **values)


async def test_the_embedding_that_was_unused_longest_leaves_the_device() -> None:
    device = SmallDevice(slots=3)
    async with serving(settings(host_cache_mib=0), device) as served:
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
        for image_id in ("p0", "p2", "p3"):
            await served.client.delete(f"/images/{image_id}")
        await until(lambda: device.arena.num_free == 3)


async def test_what_left_for_the_host_comes_back_in_the_place_of_another() -> None:
    device = SmallDevice(slots=2)
    async with serving(settings(), device) as served:
        for shade in range(5):
            assert (await served.embed(picture(shade=shade), f"p{shade}")).status_code == 200
        for _ in range(2):
            for shade in range(5):
                assert (await served.click(f"p{shade}")).status_code == 200
        assert device.adopted >= 8  # of ten clicks in turn at five pictures
        assert len(device.encoded) == 5


async def test_where_every_place_is_waited_for_the_client_is_told_to_come_again() -> None:
    device = SmallDevice(slots=1)
    async with serving(settings(host_cache_mib=0), device) as served:
        await served.embed(picture(shade=1), "first")
        device.gate.clear()
        click = asyncio.create_task(served.click("first"))
        await device.wait_until_entered()
        upload = asyncio.create_task(served.embed(picture(shade=2), "second"))
        held = served.service.store.tiers.device.peek(next(iter(served.service.store.tiers.device)))
        device.gate.set()
        assert (await click).status_code == 200
        full = await upload
        assert error(full) == (503, "overloaded")
        assert "The 1 places" in full.json()["error"]["message"]
        assert "SAM2_DEVICE_CACHE_MIB" in full.json()["error"]["message"]
        assert int(full.headers["retry-after"]) >= 1
        assert held is not None
        del held
        assert (await served.embed(picture(shade=2), "second")).status_code == 200


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("host_cache_mib", [0, 64])
async def test_several_uploads_at_once_find_room(count: int, host_cache_mib: int) -> None:
    device = SmallDevice(slots=4)
    async with serving(settings(batch_images=count, host_cache_mib=host_cache_mib), device) as served:
        for round_ in range(4):
            uploads = [served.embed(picture(shade=10 * round_ + i), f"{round_}-{i}") for i in range(2)]
            assert [reply.status_code for reply in await asyncio.gather(*uploads)] == [200, 200]
