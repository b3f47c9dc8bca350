"""The register of images: survival of names, separation of tenants, and several threads and processes."""

import asyncio
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.errors import ImageIdConflict
from app.storage.register_file import Change, ImageName, RegisterFile
from tests.app.storage.registers import A, B, name, opened
from tests.postgres import PostgresServer
from tests.server import ROOT

Place = Path | str | None


@pytest.fixture(params=["disk", "memory", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.new_database()
    return tmp_path if request.param == "disk" else None


@pytest.fixture(params=["disk", "postgres"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place that outlives a process, and that several share."""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.new_database()
    return tmp_path


async def test_names_are_those_of_a_tenant(place: Place) -> None:
    async with opened(place) as register:
        await register.add(name("truck", A, tenant="ann"), replace=False)
        await register.add(name("truck", B, tenant="bob"), replace=False)
        for tenant, content in (("ann", A), ("bob", B)):
            found = register.find("truck", tenant=tenant)
            assert found is not None
            assert found.content == content
            assert [each.content for each in register.newest(tenant=tenant, limit=9, after=None)] == [content]
        assert register.find("truck", tenant="") is None
        assert await register.remove("truck", tenant="") == frozenset()
        assert await register.remove("truck", tenant="ann") == {A}
        assert register.find("truck", tenant="bob") is not None


async def test_of_uploads_that_meet_one_has_the_name(place: Place) -> None:
    """All others are told so, and the name is that of the one that was not."""
    contents = [A, B, A, B, B]
    async with opened(place) as register:
        for number in range(9):
            adding = (register.add(name(f"truck{number}", each), replace=False) for each in contents)
            results = await asyncio.gather(*adding, return_exceptions=True)
            found = register.find(f"truck{number}", tenant="")
            assert found is not None
            refused = [isinstance(each, ImageIdConflict) for each in results]
            assert refused == [each != found.content for each in contents]


async def test_a_name_that_is_being_removed_can_be_given_anew(place: Place) -> None:
    """Also where both wait until another name is written."""
    async with opened(place) as register:
        await register.add(name("truck", A), replace=False)
        await asyncio.gather(
            register.add(name("car", B), replace=False),
            register.remove("truck", tenant=""),
            register.add(name("truck", B), replace=False),
        )
        found = register.find("truck", tenant="")
        assert found is not None
        assert found.content == B
        assert not register.is_named(A)


async def test_names_survive_the_process(kept: Place) -> None:
    async with opened(kept) as register:
        truck = name("truck")
        await register.add(truck, replace=False)
        await register.add(name("car"), replace=False)
        await register.remove("car", tenant="")
        before = register.used(truck)
        register.use(truck)
    async with opened(kept) as register:
        found = register.find("truck", tenant="")
        assert found is not None
        assert (found.content, found.height, found.width, found.created) == (A, 40, 60, truck.created)
        assert found.used > before
        assert register.find("car", tenant="") is None


async def test_a_content_is_unnamed_with_its_last_name(place: Place) -> None:
    unnamed: list[str] = []
    async with opened(place, unnamed=unnamed) as register:
        await register.add(name("one"), replace=False)
        await register.add(name("two", tenant="ann"), replace=False)
        assert await register.remove("one", tenant="") == frozenset()
        assert await register.unnamed([A, B]) == {B}
        assert unnamed == []
        assert await register.add(name("two", B, tenant="ann"), replace=True) == {A}
        assert unnamed == [A]
        assert register.is_named(B)
        assert not register.is_named(A)


async def test_a_name_that_another_process_took_is_a_conflict(kept: Place) -> None:
    async with opened(kept) as ours, opened(kept) as theirs:
        results = await asyncio.gather(
            ours.add(name("truck", A), replace=False),
            theirs.add(name("truck", B), replace=False),
            return_exceptions=True,
        )
        assert sorted(map(type, results), key=str) == [ImageIdConflict, frozenset]
        await asyncio.gather(ours.catch_up(), theirs.catch_up())
        assert ours.find("truck", tenant="") == theirs.find("truck", tenant="")


async def test_what_another_process_does_is_seen(kept: Place) -> None:
    async with opened(kept) as ours, opened(kept) as theirs:
        assert not await ours.changed_elsewhere()
        await ours.add(name("truck"), replace=False)
        await ours.catch_up()
        assert not await ours.changed_elsewhere()
        await theirs.catch_up()  # a file is read each time
        assert theirs.find("truck", tenant="") is not None
        await theirs.remove("truck", tenant="")
        await ours.catch_up()
        assert ours.find("truck", tenant="") is None
        assert await ours.changed_elsewhere()
        assert not await ours.changed_elsewhere()


async def test_old_names_are_gone_before_anybody_clears_them_away(place: Place) -> None:
    unnamed: list[str] = []
    async with opened(place, ttl_s=60, unnamed=unnamed) as register:
        await register.add(name("old", A, created=time.time() - 61), replace=False)
        await register.add(name("young", B), replace=False)
        assert register.find("old", tenant="") is None
        assert [each.image_id for each in register.newest(tenant="", limit=9, after=None)] == ["young"]
        assert await register.expire() == {A}
        assert unnamed == [A]
        assert await register.expire() == frozenset()
        await register.add(name("old", B), replace=False)  # the name is free again
        assert register.find("old", tenant="") is not None


async def test_of_too_many_names_the_least_recently_used_are_forgotten(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.storage.register.MOST_NAMES", 2)
    monkeypatch.setattr("app.storage.shared_register.MOST_NAMES", 2)
    async with opened(place) as register:
        for i, image_id in enumerate("abc"):
            await register.add(name(image_id, image_id * 64, created=float(i)), replace=False)
        register.use(name("a"))
        await register.tend()
        assert await register.expire() == {"b" * 64}
        assert [each.image_id for each in register.newest(tenant="", limit=9, after=None)] == ["c", "a"]


async def test_nothing_is_done_for_a_content_without_a_name(place: Place) -> None:
    done: list[str] = []
    async with opened(place) as register:
        assert not await register.while_named(A, lambda: done.append(A))
        await register.add(name("truck"), replace=False)
        assert await register.while_named(A, lambda: done.append(A))
        assert done == [A]


def test_a_register_in_memory_is_read_while_it_is_written() -> None:
    """Since Python 3.12, two threads that share a connection got errors and rows of another query."""
    file = RegisterFile(None)
    names = [ImageName("anna", f"n{i % 50}", f"c{i}", 1, 1, 1, float(i), float(i)) for i in range(2000)]

    def write() -> None:
        for name in names:
            file.apply({name.key: Change(name)}, since=0, on_unnamed=lambda _: None)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(1) as executor:
            writing = executor.submit(write)
            while not writing.done():
                for name in names[:50]:
                    found = file.find(name.key)
                    assert found is None or found.key == name.key
            writing.result()
    finally:
        sys.setswitchinterval(interval)
    assert file.find(names[-1].key) == names[-1]
    file.close()


def test_servers_that_open_a_new_file_at_once_all_get_it(tmp_path: Path) -> None:
    """SQLite does not wait while another process switches the file to WAL; of three, one in twenty failed."""
    script = """
import sys, time
from pathlib import Path
from app.storage.register_file import RegisterFile
for line in sys.stdin:
    path, at = line.split()
    while time.time() < float(at):
        pass
    try:
        RegisterFile(Path(path))
    except Exception as error:
        print(repr(error), flush=True)
    else:
        print("opened", flush=True)
"""
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = []
    for i in range(60):
        for server in servers:
            assert server.stdin is not None
            server.stdin.write(f"{tmp_path / str(i)} {time.time() + 0.02}\n")
            server.stdin.flush()
        said += [server.stdout.readline() for server in servers if server.stdout is not None]
    for server in servers:
        server.communicate()
    assert set(said) == {"opened\n"}
