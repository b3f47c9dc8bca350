"""A PostgreSQL that is lost, restarted, late, frozen or another one: what of the names can still be used."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app.names_errors import NamesUnreachable
from app.scheduling.deadlines import within
from app.settings import Settings
from app.storage import postgres as postgres_module
from app.storage import postgres_line, shared_register
from app.storage.postgres import Postgres
from app.storage.registers import NameRegister
from app.storage.sharing import Sharing
from tests.app.storage.registers import A, B, ids, name, opened
from tests.fakes import LONG_S, error, picture, serving, until
from tests.postgres import PostgresServer, running_postgres


@pytest.fixture(scope="module")
def frail() -> Iterator[PostgresServer]:
    """A PostgreSQL that tests may kill."""
    with running_postgres() as server:
        yield server


async def test_without_the_database_known_names_stay_and_new_ones_wait(
    frail: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The database is gone for a minute, shortened: nobody restarts the server."""
    url = frail.new_database().replace("sam2@", "sam2:geheim@")
    async with opened(url) as ours:
        await ours.add(name("truck"), replace=False)
        frail.kill()
        try:
            found = ours.find("truck", tenant="")
            assert found is not None
            ours.use(found)
            with pytest.raises(NamesUnreachable, match="SAM2_REGISTER_URL"):
                async with within(0.9):
                    await ours.add(name("late"), replace=False)
            with pytest.raises(NamesUnreachable):
                async with within(0.9):
                    await ours.catch_up()  # whether a name is known cannot be said
            with pytest.raises(ConnectionError):
                await ours.while_named(A, lambda: None)
            assert not await ours.tend()
            assert await ours.expire() == frozenset()
            assert ids(ours) == ["truck"]
            waiting = asyncio.create_task(_within_a_request(ours))
            await asyncio.sleep(0)
        finally:
            frail.start()
        await waiting
        await ours.tend()
        assert ids(ours) == ["new", "truck"]
        assert caplog.text.count("cannot be used") == 1
        assert "works again" in caplog.text
        assert "geheim" not in caplog.text
    async with opened(url) as ours:
        assert ids(ours) == ["new", "truck"]


async def test_what_was_named_just_before_a_loss_may_be_written_until_a_while_after_it(
    frail: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(frail.new_database()) as ours:
        await ours.add(name("old", B, created=ours.now() - 60), replace=False)
        await ours.add(name("new", A), replace=False)
        await ours.check_arrived(A)  # it can be asked, so what is not there is lost
        frail.kill()
        try:
            for _ in range(2):
                await ours.check_arrived(B)
                with pytest.raises(NamesUnreachable):
                    await ours.check_arrived(A)
        finally:
            frail.start()
        async with within(LONG_S):
            await ours.catch_up()
        with pytest.raises(NamesUnreachable):
            await ours.check_arrived(A)  # another server may not have noticed yet that it can write
        await ours.add(name("later", "c" * 64, created=ours.now() + 60), replace=False)
        await ours.check_arrived("c" * 64)
        monkeypatch.setitem(shared_register.BEHIND_S, "image", 0)
        await ours.check_arrived(A)


async def _within_a_request(register: NameRegister) -> None:
    async with within(LONG_S):
        await register.add(name("new", B), replace=False)


async def test_a_database_that_is_restarted_between_two_requests_is_not_noticed(
    frail: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(frail.new_database()) as ours:
        frail.kill()
        frail.start()
        await ours.add(name("truck"), replace=False)
        assert caplog.text == ""


async def test_a_database_that_starts_later_than_the_server_is_waited_for(frail: PostgresServer) -> None:
    url = frail.new_database()
    frail.kill()
    sharing = Sharing(url)
    try:
        await sharing.open()
        register = sharing.register("image", ttl_s=0, on_unnamed=lambda _: None)
        await register.open()
        assert "cannot be used" in sharing.problem
        assert "refused" in sharing.problem
    finally:
        frail.start()
    async with within(LONG_S):
        await register.add(name("truck"), replace=False)
    assert sharing.problem == ""
    await register.close()
    await sharing.close()


async def test_a_database_that_says_nothing_is_given_up(
    frail: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen machine, or a network that loses everything: the connection stays, and no error comes."""
    monkeypatch.setattr(postgres_line, "JOB_S", 0.3)
    async with opened(frail.new_database()) as ours:
        await ours.add(name("truck"), replace=False)
        frail.freeze()
        try:
            with pytest.raises(NamesUnreachable):
                async with within(0.8):
                    await ours.add(name("late"), replace=False)
            assert ours.find("truck", tenant="") is not None
        finally:
            frail.thaw()
        async with within(LONG_S):
            await ours.add(name("new"), replace=False)
        assert ours.find("new", tenant="") is not None


async def test_what_waits_behind_a_job_that_found_the_database_frozen_does_not_try_it_too(
    frail: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would wait five seconds for a connection, and prompts on a known track wait for all of them."""
    monkeypatch.setattr(postgres_line, "JOB_S", 0.3)
    monkeypatch.setattr(postgres_module, "RETRY_S", LONG_S)
    postgres = Postgres(frail.new_database(), prepare=lambda _: None)
    await postgres.open()
    frail.freeze()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(psycopg, "connect", _unexpected)
            jobs = [postgres.once(lambda each: each.execute("SELECT 1"), in_order=True) for _ in range(3)]
            found = await asyncio.gather(*jobs, return_exceptions=True)
    finally:
        frail.thaw()
    assert [type(each) for each in found] == 3 * [NamesUnreachable]
    assert postgres.problem.endswith("what it was asked for took longer than 0.3 s")
    await postgres.close()


def _unexpected(*_: object, **__: object) -> None:
    pytest.fail("nobody should connect")


async def test_tables_that_somebody_else_locks_are_a_trouble_that_is_told(
    frail: PostgresServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """VACUUM FULL, or a session that was left open: everything answers, but no name can be given."""
    monkeypatch.setitem(postgres_line._SESSION, "lock_timeout", 100)
    monkeypatch.setattr(postgres_module, "LOCKED_S", 0.2)
    url = frail.new_database()
    sharing = Sharing(url)
    await sharing.open()
    register = sharing.register("image", ttl_s=0, on_unnamed=lambda _: None)
    await register.open()
    await register.add(name("truck"), replace=False)
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE sam2_names")
        with pytest.raises(ConnectionError):  # tried later: whoever has no deadline does not wait for ever
            await asyncio.wait_for(register.while_named(A, lambda: None), LONG_S)
        assert "lock timeout" in sharing.problem
        assert "lock timeout" in caplog.text
        adding = asyncio.create_task(_within_a_request(register))
        await asyncio.sleep(0.5)
        assert not adding.done()
    await adding
    assert sharing.problem == ""
    await register.close()
    await sharing.close()


async def test_a_request_that_waits_for_the_database_does_not_hold_up_the_end_of_the_server(
    frail: PostgresServer, tmp_path: Path
) -> None:
    settings = Settings(
        workers=2, cache_dir=str(tmp_path), register_url=frail.new_database(), deadline_s=10 * LONG_S
    )
    async with serving(settings) as served:
        frail.kill()
        try:
            waiting = asyncio.create_task(served.embed(picture(), "truck"))
            await until(lambda: bool(served.service.names_problem))
            served.service.drain()
            refused = await asyncio.wait_for(waiting, LONG_S)
            assert error(refused) == (503, "names_unreachable")
        finally:
            frail.start()


async def test_after_a_loss_the_names_are_those_of_the_database(frail: PostgresServer) -> None:
    """An older copy may have taken its place: then names are gone, and numbers begin again."""
    url = frail.new_database()
    unnamed: list[str] = []
    async with opened(url, unnamed=unnamed) as ours:
        await ours.add(name("truck"), replace=False)
        await ours.add(name("car", B), replace=False)
        frail.kill()
        frail.start()
        with psycopg.connect(url) as connection:
            connection.execute("DELETE FROM sam2_names WHERE id = 'truck'")
            connection.execute("UPDATE sam2_changes SET last = 1")
        await ours.tend()
        assert ids(ours) == ["car"]
        await ours.tend()
        assert unnamed == [A]
