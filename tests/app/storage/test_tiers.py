"""Tiers of embeddings on a device with its own memory: moves down and up, and none is lost."""

import asyncio
import threading
from pathlib import Path

import pytest

from app.storage.embedding_files import EmbeddingFiles
from model.types import Embedding
from tests.app.storage.small_tiers import SIZE, OnDevice, on_device, plain, value_of, world
from tests.fakes import until


async def test_the_least_recently_used_moves_down_and_a_hit_moves_up() -> None:
    async with world() as w:
        for content, value in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
            w.tiers.put(content, on_device(value))
            await w.settled()
        assert [await w.where(content) for content in "abc"] == [("host",), ("device",), ("device",)]
        assert value_of(await w.tiers.find("a")) == 1.0
        await w.settled()
        assert [await w.where(content) for content in "abc"] == [("device",), ("host",), ("device",)]
        w.tiers.put("d", on_device(4.0))
        w.tiers.put("e", on_device(5.0))
        await w.settled()
        assert [await w.where(content) for content in "abcde"] == [
            ("host",),
            (),
            ("host",),
            ("device",),
            ("device",),
        ]
        assert await w.tiers.find("b") is None
        assert w.events == ["device evicts", "host hit", "device evicts"] + ["device evicts"] * 2 + [
            "host evicts"
        ]
        assert [w.tiers.num_images(tier) for tier in ("device", "host", "disk")] == [2, 2, 0]
        assert [w.tiers.used_bytes(tier) for tier in ("device", "host", "disk")] == [2 * SIZE, 2 * SIZE, 0]


async def test_what_is_on_the_device_is_found_without_a_pause() -> None:
    async with world() as w:
        w.tiers.put("a", on_device(1.0))
        coroutine = w.tiers.find("a")
        with pytest.raises(StopIteration) as found:  # finishes in its first step
            coroutine.send(None)
        assert value_of(found.value.value) == 1.0


async def test_what_is_used_while_it_leaves_the_device_stays() -> None:
    gate = threading.Event()
    async with world(device=1) as w:
        w.tiers.put("a", on_device(1.0, gate))
        w.tiers.put("b", on_device(2.0))
        assert await w.where("a") == ("host",)
        assert w.tiers.holds("a")
        assert value_of(await w.tiers.find("a")) == 1.0
        gate.set()
        await w.settled()
        assert [await w.where(content) for content in "ab"] == [("device",), ("host",)]


async def test_no_more_leave_the_device_at_once_than_a_few_if_the_disk_has_them(tmp_path: Path) -> None:
    gate = threading.Event()
    async with world(tmp_path, device=1, host=100) as w:
        for i in range(10):
            w.tiers.put(str(i), on_device(float(i), gate))
        assert len(w.tiers.in_memory()) == 1 + 4
        gate.set()
        await w.settled()
        assert w.tiers.num_images("host") == 4


@pytest.mark.parametrize("fails", ["there is no disk", "the disk fails"])
async def test_none_is_lost_where_the_disk_has_it_not(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EmbeddingFiles, "write_beside", full)
    gate = threading.Event()
    async with world(tmp_path if fails == "the disk fails" else None, device=1, host=100) as w:
        for i in range(10):
            w.named.add(str(i))
            await w.tiers.save(str(i), plain(float(i)), upload=None)
        await w.settled()
        for i in range(10):
            w.tiers.put(str(i), on_device(float(i), gate))
        assert len(w.tiers.in_memory()) == 10
        gate.set()
        await w.settled()
        assert w.tiers.num_images("host") == 9


async def test_what_is_shed_has_left_the_device_when_that_returns() -> None:
    gate = threading.Event()
    async with world(device=8, host=100) as w:
        for i in range(8):
            w.tiers.put(str(i), on_device(float(i), gate))
        shedding = asyncio.create_task(w.tiers.shed(0.75))
        await until(lambda: len(w.tiers.device) == 2)
        assert not shedding.done()
        gate.set()
        assert await shedding == 6
        assert w.tiers.num_images("host") == 6


async def test_room_is_made_when_the_coldest_has_left() -> None:
    gate = threading.Event()
    async with world(device=3) as w:
        assert not await w.tiers.make_room()
        w.tiers.put("a", on_device(1.0, gate))
        w.tiers.put("b", on_device(2.0))
        making = asyncio.create_task(w.tiers.make_room())
        await until(lambda: "a" not in w.tiers.device)
        assert not making.done()
        gate.set()
        assert await making
        assert w.tiers._moving == {}
        assert await w.where("a") == ("host",)
        assert await w.where("b") == ("device",)


async def test_what_cannot_be_moved_to_the_host_leaves_the_device_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else it would hold its place for ever, and whoever wants room would be told that some has been made."""

    def fail(_: OnDevice) -> Embedding:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8388608 bytes.")

    monkeypatch.setattr(OnDevice, "to_host", fail)
    async with world(device=3) as w:
        w.tiers.put("a", on_device(1.0))
        w.tiers.put("b", on_device(2.0))
        made = [await w.tiers.make_room() for _ in range(3)]
        assert made == [True, True, False]
        assert not w.tiers.in_memory()
        assert await w.tiers.find("a") is None
    assert "could not be moved to host memory" in caplog.text
