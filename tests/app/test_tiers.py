"""Tiers of embeddings on a device with memory of its own: what moves up and down, and what is done only once."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from app.disk_trouble import DiskTrouble
from app.embedding_files import Beside, EmbeddingFiles
from app.tiers import Tiers
from model.types import Embedding
from tests.fakes import LONG_S, until

SIZE = 4 * 128


@dataclass(frozen=True, slots=True, eq=False)
class OnDevice(Embedding):
    """An embedding in memory that is not the host's; waits for the gate before it leaves."""

    gate: threading.Event | None = None

    def to_host(self) -> Embedding:
        assert self.gate is None or self.gate.wait(LONG_S)
        return plain(float(self.image_rows[0, 0]))


def plain(value: float) -> Embedding:
    """In host memory."""
    return Embedding(
        torch.full((4, 8), value), torch.zeros(4, 4, 2), torch.zeros(4, 4, 4, 1), (), height=40, width=60
    )


def on_device(value: float, gate: threading.Event | None = None) -> OnDevice:
    """On the device."""
    host = plain(value)
    return OnDevice(host.image_rows, host.feat_s1_rows, host.feat_s0_rows, (), 40, 60, gate)


@dataclass(slots=True)
class World:
    """Tiers, and what they were heard to do."""

    tiers: Tiers
    events: list[str]
    named: set[str] = field(default_factory=set)

    async def save(self, content: str, value: float) -> None:
        """Hold it and have it written."""
        self.named.add(content)
        self.tiers.put(content, on_device(value))
        await self.tiers.save(content, plain(value), upload=None)
        await self.settled()

    async def settled(self) -> None:
        """Until nothing is under way."""
        await until(lambda: not self.tiers._tasks)

    async def where(self, content: str) -> tuple[str, ...]:
        return (await self.tiers.where([content]))[content]


@asynccontextmanager
async def world(folder: Path | None = None, *, device: int = 2, host: int = 2) -> AsyncIterator[World]:
    """Room for so many embeddings on the device and in host memory."""
    events: list[str] = []
    named: set[str] = set()
    trouble = DiskTrouble(folder) if folder is not None else None
    files = None
    if folder is not None and trouble is not None:
        files = EmbeddingFiles(
            folder, fingerprint="1" * 64, capacity_bytes=2**20, trouble=trouble, on_evict=lambda: None
        )

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


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


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
        with pytest.raises(StopIteration) as found:  # the first step is the last
            coroutine.send(None)
        assert value_of(found.value.value) == 1.0


async def test_a_hit_on_the_disk_moves_up_and_the_disk_keeps_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.save("a", 1.0)
        assert await w.where("a") == ("device", "disk")
        assert w.tiers.num_images("disk") == 1
    async with world(tmp_path) as w:
        assert value_of(await w.tiers.find("a")) == 1.0
        assert await w.where("a") == ("device", "disk")
        assert w.events == ["disk hit"]
        assert await w.tiers.find("b") is None


async def test_many_who_ask_at_once_make_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path) as w:
        await w.save("a", 1.0)
        w.tiers.device.pop("a")
        reads: list[str] = []
        gate = threading.Event()
        read = EmbeddingFiles.read

        def slow(files: EmbeddingFiles, content: str) -> Embedding | None:
            reads.append(content)
            assert gate.wait(LONG_S)
            return read(files, content)

        monkeypatch.setattr(EmbeddingFiles, "read", slow)
        finds = [asyncio.create_task(w.tiers.find("a")) for _ in range(10)]
        await until(lambda: bool(reads))
        finds[0].cancel()  # the others are not to suffer
        gate.set()
        found = await asyncio.gather(*finds[1:])
        assert reads == ["a"]
        assert all(each is found[0] for each in found)


async def test_what_is_dropped_while_it_is_read_stays_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        await w.save("a", 1.0)
        w.tiers.device.pop("a")
        gate, entered = threading.Event(), threading.Event()
        read = EmbeddingFiles.read

        def slow(files: EmbeddingFiles, content: str) -> Embedding | None:
            entered.set()
            assert gate.wait(LONG_S)
            return read(files, content)

        monkeypatch.setattr(EmbeddingFiles, "read", slow)
        finding = asyncio.create_task(w.tiers.find("a"))
        await until(entered.is_set)
        w.tiers.drop("a")
        gate.set()
        assert await finding is None
        assert w.tiers.in_memory() == set()


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


async def test_nothing_without_a_name_comes_to_the_disk(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.tiers.save("a", plain(1.0), upload=b"picture")
        await w.settled()
        assert await w.where("a") == ()
        assert files_under(tmp_path) == []


async def test_what_could_not_be_written_is_written_when_the_disk_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path, device=9) as w:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(EmbeddingFiles, "write_beside", full)
        for content in "abc":
            await w.save(content, 1.0)
        assert caplog.text.count("No space left on device") == 1
        assert files_under(tmp_path) == []
        await w.tiers.tend()
        w.tiers.drop("c")
        monkeypatch.undo()
        await w.tiers.tend()
        assert [await w.where(content) for content in "abc"] == [("device", "disk"), ("device", "disk"), ()]
        assert "works again" in caplog.text


async def test_a_disk_that_hangs_holds_nobody_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.tiers.SLOW_DISK_S", 0.01)
    gate = threading.Event()
    write = EmbeddingFiles.write_beside

    def slow(files: EmbeddingFiles, content: str, embedding: Embedding) -> Beside | None:
        assert gate.wait(LONG_S)
        return write(files, content, embedding)

    monkeypatch.setattr(EmbeddingFiles, "write_beside", slow)
    async with world(tmp_path, device=9) as w:
        w.named |= set("abcdef")
        for content in "abcdef":
            w.tiers.put(content, on_device(1.0))
            await w.tiers.save(content, plain(1.0), upload=None)
        assert len(w.tiers._tasks) == 4
        assert "cannot be written" in caplog.text
        gate.set()
        await w.settled()
        await w.tiers.tend()
        for content in "abcdef":
            assert await w.where(content) == ("device", "disk")


async def test_a_failure_to_bring_it_up_is_told_to_all_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        await w.save("a", 1.0)
        w.tiers.device.pop("a")

        async def fail(_: Embedding) -> Embedding:
            raise RuntimeError("the device is broken")

        monkeypatch.setattr(w.tiers, "_adopt", fail)
        failures = await asyncio.gather(*(w.tiers.find("a") for _ in range(3)), return_exceptions=True)
        assert [str(failure) for failure in failures] == ["the device is broken"] * 3
        assert len({id(failure) for failure in failures}) == 3


async def test_a_disk_that_cannot_sync_is_told_of_and_one_that_is_slow_at_it_holds_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()

    def sync(_: int) -> None:
        assert gate.wait(LONG_S)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr("app.tiers.MOST_SETTLING", 3)
    async with world(tmp_path, device=9) as w:
        w.named |= set("abcdef")
        for content in "abcdef":
            w.tiers.put(content, on_device(1.0))
            await w.tiers.save(content, plain(1.0), upload=None)
        await until(lambda: len(w.tiers._tasks) == 3)
        for content in "abcdef":
            assert await w.where(content) == ("device", "disk")
        gate.set()
        await w.settled()
        assert "power cut" in caplog.text
