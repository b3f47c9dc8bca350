"""What is to be removed from a bucket: who waits for it, and for how long."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.storage import removals as removals_module
from app.storage.disk_trouble import DiskTrouble
from app.storage.removals import Removals
from tests.app.storage.registers import A, B
from tests.fakes import LONG_S


class Bucket:
    """Removes contents once it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.removed: list[str] = []

    def remove(self, content: str) -> None:
        """Remove a content."""
        assert self.may.wait(LONG_S)
        self.removed.append(content)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def removals(bucket: Bucket) -> Iterator[Removals]:
    removals = Removals(bucket.remove, DiskTrouble("s3://bucket"))
    yield removals
    bucket.may.set()
    removals.close(patience_s=LONG_S)


async def test_who_waits_for_a_slow_bucket_holds_no_thread_that_others_need(
    bucket: Bucket, removals: Removals
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    order: list[str] = []

    async def delete() -> None:
        removals.add(A)
        await removals.wait([A, B])
        order.append("deleted")

    deleting = asyncio.create_task(delete())
    await asyncio.sleep(0)
    await asyncio.to_thread(order.append, "something else")
    bucket.may.set()
    await deleting
    assert order == ["something else", "deleted"]
    assert bucket.removed == [A]


async def test_what_takes_too_long_is_removed_later(
    bucket: Bucket, removals: Removals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals_module, "WAIT_S", 0.0)
    removals.add(A)
    await removals.wait([A])
    assert bucket.removed == []
    bucket.may.set()
    await asyncio.to_thread(removals.complete, A)
    assert bucket.removed == [A]
