"""Registers that are damaged, locked or of another kind, and clocks that go back: names are lost only with rows."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from app.storage.damaged_files import is_damage
from app.storage.registers import NameRegister
from tests.app.storage.registers import name, opened

FILE = "register.sqlite"
_PAGE = 4096


def names(register: NameRegister) -> set[str]:
    return {each.image_id for each in register.newest(tenant="", limit=1000, after=None)}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.storage.register.RETRY_S", 0.0)


def damage(folder: Path, *, from_page: int) -> None:
    """Overwrite the file from a page on, as a failing disk does, and all that is not yet in the file itself."""
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = (folder / FILE).read_bytes()
    kept = data[: from_page * _PAGE]
    (folder / FILE).write_bytes(kept + b"\xa5" * (len(data) - len(kept)))


@pytest.mark.parametrize("from_page", [0, 1])
async def test_a_register_that_is_damaged_while_it_is_in_use_is_made_again(
    from_page: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as register:
        for number in range(300):
            await register.add(name(f"before{number}"), replace=False)
        damage(tmp_path, from_page=from_page)
        # Whatever the damage hides meanwhile, this name is given and found.
        await register.add(name("during"), replace=False)
        for _ in range(3):
            register.is_named("a" * 64)
            await register.tend()
        assert "is damaged" in caplog.text
        assert (tmp_path / f"{FILE}.unreadable").exists()
        assert register.find("during", tenant="") is not None
        await register.add(name("after"), replace=False)
    async with opened(tmp_path) as register:
        assert {"during", "after"} <= names(register)


async def test_of_a_damaged_register_the_rows_that_can_be_read_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as register:
        for number in range(300):
            await register.add(name(f"{number:03}"), replace=False)
    pages = (tmp_path / FILE).stat().st_size // _PAGE
    async with opened(tmp_path) as register:
        damage(tmp_path, from_page=pages - 2)
        for number in range(300):
            register.find(f"{number:03}", tenant="")
            register.is_named("a" * 64)
        await register.add(name("during"), replace=False)
        await register.tend()
        assert "is damaged" in caplog.text
        kept = names(register)
        assert len(kept) > 20
        assert "during" in kept


async def test_a_register_that_another_process_has_made_again_is_not_moved_aside(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        await one.add(name("before"), replace=False)
        damage(tmp_path, from_page=0)
        for register in (one, other):
            register.find("before", tenant="")
        await one.tend()
        await one.add(name("mine"), replace=False)
        await other.tend()
        assert other.find("mine", tenant="") is not None
        await other.add(name("theirs"), replace=False)
        assert one.find("theirs", tenant="") is not None


async def test_a_table_of_another_kind_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("CREATE TABLE names (image_id TEXT, sha TEXT)")
    connection.close()
    async with opened(tmp_path) as register:
        assert f"{FILE}.unreadable" in caplog.text
        await register.add(name("truck"), replace=False)
    async with opened(tmp_path) as register:
        assert register.find("truck", tenant="") is not None


async def test_names_are_given_while_another_program_locks_the_register(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.storage.register_file.BUSY_MS", 20)
    async with opened(tmp_path) as register:
        await register.add(name("before"), replace=False)
        locker = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        locker.execute("BEGIN EXCLUSIVE")
        await register.add(name("during"), replace=False)
        assert "database is locked" in caplog.text
        assert names(register) == {"before", "during"}
        await register.remove("before", tenant="")
        assert register.find("before", tenant="") is None
        locker.execute("COMMIT")
        locker.close()
        await register.tend()
    async with opened(tmp_path) as register:
        assert names(register) == {"during"}


async def test_a_clock_that_goes_back_loses_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = 86_400.0
    now = time.time()
    monkeypatch.setattr("app.storage.register.time", lambda: now)
    async with opened(tmp_path, ttl_s=3600) as register:
        await register.add(name("before", created=now), replace=False)
        now -= day
        await register.add(name("after", created=now), replace=False)
        assert await register.expire() == frozenset()
        assert names(register) == {"before", "after"}
        now += 2 * day
        await register.expire()
        assert names(register) == set()


def test_only_a_damaged_file_counts_as_damaged() -> None:
    assert not is_damage(sqlite3.OperationalError("disk I/O error"))
    with (
        closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(sqlite3.OperationalError) as missing,
    ):
        connection.execute("SELECT * FROM nothing")
    assert not is_damage(missing.value)
