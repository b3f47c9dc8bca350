"""Tiers with room for a few small embeddings, on a device with its own memory."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from app.storage.disk_trouble import DiskTrouble
from app.storage.tiers import Tiers
from model.types import Embedding
from tests.app.storage.places import Folder, Place
from tests.fakes import LONG_S, until

SIZE = 4 * 128


@dataclass(frozen=True, slots=True, eq=False)
class OnDevice(Embedding):
    """An embedding in device memory. Waits for the gate before it moves to the host."""

    gate: threading.Event | None = None

    def to_host(self) -> Embedding:
        assert self.gate is None or self.gate.wait(LONG_S)
        return plain(float(self.image_rows[0, 0]))


def plain(value: float) -> Embedding:
    """An embedding in host memory."""
    return Embedding(
        torch.full((4, 8), value), torch.zeros(4, 4, 2), torch.zeros(4, 4, 4, 1), (), height=40, width=60
    )


def on_device(value: float, gate: threading.Event | None = None) -> OnDevice:
    """An embedding on the device."""
    host = plain(value)
    return OnDevice(host.image_rows, host.feat_s1_rows, host.feat_s0_rows, (), 40, 60, gate)


@dataclass(slots=True)
class World:
    """Tiers, and the events that they reported."""

    tiers: Tiers
    events: list[str]
    named: set[str] = field(default_factory=set)

    async def save(self, content: str, value: float) -> None:
        """Put an embedding on the device, and wait until it is written."""
        self.named.add(content)
        self.tiers.put(content, on_device(value))
        await self.tiers.save(content, plain(value), upload=None)
        await self.settled()

    async def settled(self) -> None:
        """Wait until nothing is being moved or written."""
        await until(lambda: not self.tiers._tasks)

    async def where(self, content: str) -> tuple[str, ...]:
        return (await self.tiers.where([content]))[content]


@asynccontextmanager
async def world(place: Path | Place | None = None, *, device: int = 2, host: int = 2) -> AsyncIterator[World]:
    """Tiers with room for `device` embeddings on the device and `host` in host memory."""
    events: list[str] = []
    named: set[str] = set()
    if isinstance(place, Path):
        place = Folder(place)
    trouble = DiskTrouble(place.name, setting=place.name) if place is not None else None
    files = place.kept() if place is not None else None

    async def adopt(embedding: Embedding) -> Embedding:
        assert not isinstance(embedding, OnDevice)
        await asyncio.sleep(0)
        return on_device(float(embedding.image_rows[0, 0]))

    async def while_named(content: str, action: Callable[[], None]) -> bool:
        if content in named:
            action()
        return content in named

    tiers = Tiers(
        device_bytes=device * SIZE,
        host_bytes=host * SIZE,
        files=files,
        trouble=trouble,
        adopt=adopt,
        while_named=while_named,
        on_hit=lambda tier: events.append(f"{tier} hit"),
        on_evict=lambda tier: events.append(f"{tier} evicts"),
    )
    try:
        yield World(tiers, events, named)
    finally:
        await tiers.close()


def value_of(embedding: Embedding | None) -> float:
    assert isinstance(embedding, OnDevice)
    return float(embedding.image_rows[0, 0])
