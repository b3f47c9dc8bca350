"""The register on a disk that is full, gone, of another kind or a newer server's: names are given all the same."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from app.errors import ImageIdConflict
from app.storage.register_file import RegisterFile
from tests.app.storage.registers import A, B, ids, name, opened


class FullDisk:
    """Makes every write of the register fail, like SQLite on a full disk, until `over` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.over = False
        begin = RegisterFile._transaction

        def fail(file: RegisterFile) -> object:
            if not self.over:
                raise sqlite3.OperationalError("database or disk is full")
            return begin(file)

        monkeypatch.setattr(RegisterFile, "_transaction", fail)
        monkeypatch.setattr("app.storage.register.RETRY_S", 0.0)


async def test_on_a_full_disk_names_are_given_listed_and_removed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unnamed: list[str] = []
    async with opened(tmp_path, unnamed=unnamed) as register:
        for image_id in ("kept", "removed"):
            await register.add(name(image_id, image_id[0] * 64), replace=False)
        disk = FullDisk(monkeypatch)
        await register.add(name("new", B), replace=False)
        await register.add(name("newer", B), replace=False)
        assert await register.remove("removed", tenant="") == {"r" * 64}
        assert unnamed == ["r" * 64]  # its files can still be removed
        page = register.newest(tenant="", limit=2, after=None)
        assert [each.image_id for each in page] == ["newer", "new"]
        rest = register.newest(tenant="", limit=2, after=page[-1])
        assert [each.image_id for each in rest] == ["kept"]
        assert register.is_named(B)
        assert await register.unnamed([B, "x"]) == {"x"}
        register.use(rest[0])
        assert await register.expire() == frozenset()
        await register.tend()
        assert caplog.text.count("database or disk is full") == 1
        disk.over = True
        await register.tend()
    async with opened(tmp_path) as register:
        listed = register.newest(tenant="", limit=9, after=None)
        assert [each.image_id for each in listed] == ["newer", "new", "kept"]


async def test_a_folder_that_is_removed_is_made_again_with_all_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    async with opened(folder) as register:
        await register.add(name("before"), replace=False)
        shutil.rmtree(folder)
        assert register.find("before", tenant="") is not None
        await register.add(name("after"), replace=False)
        assert await register.tend()
        assert not await register.tend()
        assert "was removed" in caplog.text
    async with opened(folder) as register:
        assert {each.image_id for each in register.newest(tenant="", limit=9, after=None)} == {
            "before",
            "after",
        }


async def test_a_folder_that_cannot_be_used_is_stood_in_for_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not stop root, and tests may run as root. A file instead of the folder stops root too."""
    monkeypatch.setattr("app.storage.register.RETRY_S", 0.0)
    folder, before = tmp_path / "cache", tmp_path / "before"
    async with opened(before) as register:
        for each in ("deleted", "sent again", "kept"):
            await register.add(name(each), replace=False)
    folder.write_bytes(b"")
    async with opened(folder) as register:
        await register.add(name("truck"), replace=False)
        assert register.find("truck", tenant="") is not None
        assert not await register.tend()
        assert "cannot be opened" in caplog.text
        await register.remove("deleted", tenant="")
        await register.add(name("sent again", B), replace=False)
        with pytest.raises(ImageIdConflict):
            await register.add(name("sent again", A), replace=False)
        folder.unlink()
        before.rename(folder)
        assert await register.tend()
        assert ids(register) == ["kept", "sent again", "truck"]
    async with opened(folder) as register:
        assert register.find("truck", tenant="") is not None
        assert register.find("deleted", tenant="") is None
        assert (again := register.find("sent again", tenant="")) is not None
        assert again.content == B


async def test_a_register_that_is_none_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "register.sqlite"
    path.write_bytes(b"no database" * 1000)
    async with opened(tmp_path) as register:
        await register.add(name("truck"), replace=False)
        assert "register.sqlite.unreadable" in caplog.text
        assert (tmp_path / "register.sqlite.unreadable").read_bytes() == b"no database" * 1000
    async with opened(tmp_path) as register:
        assert register.find("truck", tenant="") is not None


async def test_a_register_of_a_newer_server_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(tmp_path / "register.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    async with opened(tmp_path) as register:
        assert "newer server" in caplog.text
        await register.add(name("truck"), replace=False)  # works in memory


async def test_a_register_that_cannot_be_read_is_one_without_the_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async with opened(tmp_path) as register:
        await register.add(name("truck"), replace=False)
        for method in ("find", "newest", "keys_of", "unnamed", "changed_elsewhere"):
            monkeypatch.setattr(RegisterFile, method, fail)
        assert register.find("truck", tenant="") is None
        assert register.newest(tenant="", limit=9, after=None) == []
        assert not register.is_named(A)
        assert await register.unnamed([A]) == set()
        assert not await register.changed_elsewhere()
        assert caplog.text.count("disk I/O error") == 1
        monkeypatch.undo()
        assert register.find("truck", tenant="") is not None
