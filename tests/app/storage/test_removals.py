"""What is to be removed from a bucket: who waits for it, for how long, and what has a name by then."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.storage import removals as removals_module
from app.storage.disk_trouble import DiskTrouble
from app.storage.removals import Removals
from app.storage.written import NamesAway
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


class Names:
    """Which contents have names, as far as they can be asked."""

    def __init__(self, *named: str) -> None:
        self.named = set(named)
        self.is_away = False

    async def while_named(self, content: str, action: Callable[[], None]) -> bool:
        """As WhileNamed."""
        if self.is_away:
            raise NamesAway
        if content in self.named:
            action()
        return content in self.named


async def test_what_has_a_name_again_when_its_turn_has_come_stays(bucket: Bucket, removals: Removals) -> None:
    names = Names(A)  # another server was faster
    removals.spare_named(names.while_named)
    bucket.may.set()
    removals.add(A)
    removals.add(B)
    await removals.wait([A, B])
    assert bucket.removed == [B]
    names.named.clear()
    removals.retry()
    await removals.wait([A, B])
    assert bucket.removed == [B]  # it was let go


async def test_while_the_names_are_away_nothing_is_removed_and_nothing_forgotten(
    bucket: Bucket, removals: Removals, caplog: pytest.LogCaptureFixture
) -> None:
    names = Names()
    names.is_away = True
    removals.spare_named(names.while_named)
    bucket.may.set()
    removals.add(A)
    await removals.wait([A])
    assert bucket.removed == []
    assert caplog.messages == []  # who keeps the names says it
    names.is_away = False
    removals.retry()
    await removals.wait([A])
    assert bucket.removed == [A]


async def test_what_a_register_finds_when_it_is_closed_last_ends_nothing(
    bucket: Bucket, removals: Removals
) -> None:
    bucket.may.set()
    removals.close(patience_s=LONG_S)
    removals.add(A)
    await removals.wait([A])
    assert bucket.removed == []
