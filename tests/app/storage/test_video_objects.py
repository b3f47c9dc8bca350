"""Videos in a bucket: read whole or not at all, limited in bytes, and held in memory while the bucket is gone."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator

import pytest

from app.storage.bucket import Bucket
from app.storage.kept_videos import KeptVideos
from tests.fakes import until
from tests.object_store import ObjectStore, sibling


class World:
    """Videos in a bucket with room for 1000 bytes, and what has a name."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.named = set[str]()
        self.evicted: list[str] = []
        self.files = KeptVideos.in_place(
            bucket, None, capacity_bytes=1000, trouble=None, on_evict=self.evicted.append
        )

    async def while_named(self, content: str, action: Callable[[], None]) -> bool:
        if content in self.named:
            action()
        return content in self.named

    async def save(self, data: bytes) -> str:
        """Save a video that has a name, and return its content."""
        content = hashlib.sha256(data).hexdigest()
        self.named.add(content)
        await self.files.save(
            content, data, while_named=self.while_named, is_named=lambda each: each in self.named
        )
        return content

    def read(self, content: str) -> bytes | None:
        file = self.files.open(content)
        if file is None:
            return None
        with file:
            return file.read()


@pytest.fixture
def w(object_store: ObjectStore, _bucket: Bucket) -> Iterator[World]:
    """Videos in a bucket of their own."""
    world = World(sibling(_bucket, object_store.new_bucket()))
    yield world
    asyncio.run(world.files.close())


async def test_a_video_is_kept_read_and_removed(w: World, object_store: ObjectStore) -> None:
    content = await w.save(b"video")
    assert object_store.keys(w.bucket.url) == [f"videos/{content}"]
    assert w.files.use(content)
    assert w.read(content) == b"video"
    assert w.files.used_bytes == 5
    await w.save(b"video")  # again
    w.files.remove(content)
    await w.files.wait_removed(content)
    assert not w.files.use(content)
    assert w.read(content) is None
    assert object_store.keys(w.bucket.url) == []


async def test_nothing_stays_of_a_video_whose_name_went_while_it_was_written(
    w: World, object_store: ObjectStore
) -> None:
    await w.files.save("a" * 64, b"video", while_named=w.while_named, is_named=lambda _: False)
    assert object_store.keys(w.bucket.url) == []
    assert not w.files.use("a" * 64)


async def test_beyond_the_bound_the_oldest_goes_but_never_the_newest(
    w: World, object_store: ObjectStore
) -> None:
    first = await w.save(b"1" * 600)
    [path] = object_store.files(w.bucket.url)
    object_store.grow_old(path, 1000)
    second = await w.save(b"2" * 1200)
    assert w.evicted == [first]
    assert not w.files.use(first)
    assert w.read(second) == b"2" * 1200
    assert w.files.used_bytes == 1200


async def test_a_damaged_video_is_gone_and_said(
    w: World, object_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    content = await w.save(b"video")
    [path] = object_store.files(w.bucket.url)
    path.write_bytes(b"vIdeo")
    assert w.read(content) is None
    assert "SHA-256" in caplog.text
    assert object_store.keys(w.bucket.url) == []


async def test_what_a_bucket_that_is_gone_does_not_take_is_held_and_removals_come_later(
    w: World, object_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    gone, back = await w.save(b"to go"), await w.save(b"to come back")
    object_store.kill()
    held = await w.save(b"held")
    assert w.read(held) == b"held"
    for content in (gone, back):
        w.files.remove(content)
        await w.files.wait_removed(content)
    assert w.files.use(gone)  # nobody can tell
    assert w.read(gone) is None
    assert len(caplog.messages) == 1
    assert caplog.text.count("cannot be reached") == 1
    object_store.start()
    w.named = {back, held}
    w.bucket._paused_until = 0.0
    w.files.spare_named(w.while_named)
    w.files.retry()
    await w.files.write_held(w.while_named)  # for other servers, and after a restart
    there = sorted(f"videos/{each}" for each in w.named)
    await until(lambda: object_store.keys(w.bucket.url) == there)
    assert w.files._held == {}
    assert w.read(held) == b"held"
