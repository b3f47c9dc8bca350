"""Tiers with a folder or a bucket: one read serves all who wait, and a full, slow or broken one blocks nobody."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from app.storage.embedding_files import EmbeddingFiles
from app.storage.written import Written
from model.types import Embedding
from tests.app.storage.places import Place
from tests.app.storage.small_tiers import on_device, plain, value_of, world
from tests.fakes import LONG_S, until


async def test_a_hit_on_the_disk_moves_up_and_the_disk_keeps_it(place: Place) -> None:
    async with world(place) as w:
        await w.save("a", 1.0)
        assert await w.where("a") == ("device", "disk")
        assert w.tiers.num_images("disk") == 1
    async with world(place) as w:
        assert value_of(await w.tiers.find("a")) == 1.0
        assert await w.where("a") == ("device", "disk")
        assert w.events == ["disk hit"]
        assert await w.tiers.find("b") is None


async def test_many_who_ask_at_once_make_one_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(place) as w:
        await w.save("a", 1.0)
        w.tiers.device.pop("a")
        reads: list[str] = []
        gate = threading.Event()
        read = place.kind.read

        def slow(files: Any, content: str) -> Embedding | None:
            reads.append(content)
            assert gate.wait(LONG_S)
            return read(files, content)

        monkeypatch.setattr(place.kind, "read", slow)
        finds = [asyncio.create_task(w.tiers.find("a")) for _ in range(10)]
        await until(lambda: bool(reads))
        finds[0].cancel()  # the others must not be affected
        gate.set()
        found = await asyncio.gather(*finds[1:])
        assert reads == ["a"]
        assert all(each is found[0] for each in found)


async def test_what_is_dropped_while_it_is_read_stays_dropped(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(place) as w:
        await w.save("a", 1.0)
        w.tiers.device.pop("a")
        gate, entered = threading.Event(), threading.Event()
        read = place.kind.read

        def slow(files: Any, content: str) -> Embedding | None:
            entered.set()
            assert gate.wait(LONG_S)
            return read(files, content)

        monkeypatch.setattr(place.kind, "read", slow)
        finding = asyncio.create_task(w.tiers.find("a"))
        await until(entered.is_set)
        w.tiers.drop("a")
        gate.set()
        assert await finding is None
        assert w.tiers.in_memory() == set()


async def test_reads_that_hang_hold_no_embedding_on_the_device(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device waits for room, and with it all clicks."""
    gate, reading = threading.Event(), threading.Semaphore(0)

    def hang(*_: Any) -> None:
        reading.release()
        assert gate.wait(LONG_S)

    async with world(place) as w:
        monkeypatch.setattr(place.kind, "read", hang)
        readers = w.tiers.files.readers if w.tiers.files is not None else 0
        finding = [asyncio.create_task(w.tiers.find(f"lost {number}")) for number in range(readers)]
        for _ in finding:
            assert await asyncio.to_thread(reading.acquire, True, LONG_S)
        w.tiers.put("a", on_device(1.0))
        try:
            assert await asyncio.wait_for(w.tiers.make_room(), LONG_S / 4)
            assert w.tiers.num_images("host") == 1
        finally:
            gate.set()
        assert await asyncio.gather(*finding) == [None] * readers


async def test_nothing_without_a_name_comes_to_the_disk(place: Place) -> None:
    async with world(place) as w:
        await w.tiers.save("a", plain(1.0), upload=b"picture")
        await w.settled()
        assert await w.where("a") == ()
        assert place.files() == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),  # on the way from a GPU
    ],
)
async def test_what_could_not_be_written_is_written_when_the_disk_works(
    error: Exception, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(place, device=9) as w:

        def full(*_: object) -> None:
            raise error

        monkeypatch.setattr(place.kind, "write_beside", full)
        for content in "abc":
            await w.save(content, 1.0)
        assert caplog.text.count(str(error)) == 1
        assert place.files() == []
        await w.tiers.tend()
        w.tiers.drop("c")
        monkeypatch.undo()
        await w.tiers.tend()
        assert [await w.where(content) for content in "abc"] == [("device", "disk"), ("device", "disk"), ()]
        assert "works again" in caplog.text


async def test_a_disk_that_hangs_holds_nobody_for_long(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.storage.tiers.SLOW_DISK_S", 0.01)
    gate = threading.Event()
    write = place.kind.write_beside

    def slow(files: Any, content: str, embedding: Embedding) -> Written | None:
        assert gate.wait(LONG_S)
        return write(files, content, embedding)

    monkeypatch.setattr(place.kind, "write_beside", slow)
    async with world(place, device=9) as w:
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
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(place) as w:
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
    monkeypatch.setattr("app.storage.settling.MOST_SETTLING", 3)
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


async def test_what_is_made_while_the_disk_is_asked_is_found(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it is made a second time, and counts twice towards its client's rate."""
    gate, entered = threading.Event(), threading.Event()

    def slow(*_: Any) -> None:
        entered.set()
        assert gate.wait(LONG_S)

    async with world(place) as w:
        monkeypatch.setattr(place.kind, "read", slow)
        finding = asyncio.create_task(w.tiers.find("a"))
        await until(entered.is_set)
        w.tiers.put("a", on_device(1.0))
        gate.set()
        assert value_of(await finding) == 1.0


async def test_what_is_evicted_before_it_is_written_is_found(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its upload has been answered. Clicks on it were told that it is no longer available."""
    gate = threading.Event()
    write = place.kind.write_beside

    def slow(files: Any, content: str, embedding: Embedding) -> Written | None:
        assert gate.wait(LONG_S)
        return write(files, content, embedding)

    async with world(place, device=1, host=0) as w:
        monkeypatch.setattr(place.kind, "write_beside", slow)
        for content in "ab":
            w.named.add(content)
            w.tiers.put(content, on_device(1.0))
            await w.tiers.save(content, on_device(1.0), upload=None)
        assert "a" not in w.tiers.device
        assert value_of(await w.tiers.find("a")) == 1.0
        w.tiers.drop("b")
        assert await w.tiers.find("b") is None
        gate.set()
        await w.settled()
        assert not w.tiers._saving


async def test_what_moves_to_the_host_while_the_maintenance_runs_is_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    gate = threading.Event()
    async with world(tmp_path, device=1) as w:
        w.named.add("a")
        w.tiers.put("a", on_device(1.0, gate))
        with monkeypatch.context() as broken:
            broken.setattr(EmbeddingFiles, "write_beside", full)
            await w.tiers.save("a", plain(1.0), upload=None)
            await w.settled()
        w.tiers.put("b", on_device(2.0))
        tending = asyncio.create_task(w.tiers.tend())
        await until(lambda: not w.tiers._unsaved)
        gate.set()
        await tending
        await w.settled()
        assert await w.where("a") == ("host", "disk")
