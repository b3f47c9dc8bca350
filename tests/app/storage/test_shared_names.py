"""Names in PostgreSQL with many of them, many requests at once, and slow answers."""

import asyncio
import threading
import time

import psycopg
import pytest

from app.names_errors import NamesUnreachable
from app.scheduling.deadlines import within
from app.storage import postgres_line
from app.storage.postgres import Postgres
from app.storage.postgres_line import Connection
from tests.app.storage.registers import A, B, name, opened
from tests.fakes import LONG_S, until

END_OTHERS = b"""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()
"""


async def test_what_lost_its_last_name_is_told_though_the_request_that_applied_it_has_gone(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request applies the changes of all that wait. If its client leaves, the others must hear what became."""
    entered, leave = threading.Event(), threading.Event()
    async with opened(url) as ours:
        await ours.add(name("truck"), replace=False)
        await ours.add(name("car", B), replace=False)
        names = ours._names  # type: ignore[attr-defined]
        apply = names.apply

        def watched(connection: object, asked: list[object], **more: object) -> object:
            if len(asked) == 2:
                entered.set()
                assert leave.wait(LONG_S)
            return apply(connection, asked, **more)

        monkeypatch.setattr(names, "apply", watched)
        first = asyncio.create_task(ours.add(name("first"), replace=False))
        leaving = asyncio.create_task(ours.add(name("leaving"), replace=False))
        removing = asyncio.create_task(ours.remove("car", tenant=""))
        await asyncio.to_thread(entered.wait, LONG_S)
        leaving.cancel()
        await asyncio.wait([leaving])
        leave.set()
        assert await removing == {B}
        await first


async def test_all_pages_of_names_are_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.storage.shared_names._ROWS_AT_ONCE", 3)
    async with opened(url) as theirs:
        rows = [name(f"n{i}", tenant=tenant) for tenant in ("", "b", "é") for i in range(4)]
        await asyncio.gather(*(theirs.add(row, replace=False) for row in rows))
        async with opened(url) as ours:
            assert ours._copy.keys() == {row.key for row in rows}  # type: ignore[attr-defined]
            with psycopg.connect(url) as connection:
                connection.execute("DELETE FROM sam2_names WHERE id = 'n2'")
            ours._read_over = 0  # type: ignore[attr-defined]  # as over a new connection
            await ours.catch_up()
            assert ours._copy.keys() == {row.key for row in rows if row.image_id != "n2"}  # type: ignore[attr-defined]


async def test_many_uses_are_written_in_portions(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once they would take longer than a statement may, again and again."""
    monkeypatch.setattr("app.storage.shared_register._USES_AT_ONCE", 2)
    async with opened(url) as ours:
        rows = [name(f"n{i}", created=1.0) for i in range(5)]
        await asyncio.gather(*(ours.add(row, replace=False) for row in rows))
        names = ours._names  # type: ignore[attr-defined]
        write, sizes = names.use, list[int]()
        monkeypatch.setattr(
            names, "use", lambda connection, used: (sizes.append(len(used)), write(connection, used))
        )
        for row in rows:
            ours.use(row)
        await ours.tend()
        assert sizes == [2, 2, 1]
        assert all(each.used > 1.0 for each in ours.newest(tenant="", limit=9, after=None))


async def test_a_lock_that_another_server_holds_for_long_is_no_loss_of_the_database(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for limit in ("statement_timeout", "lock_timeout"):
        monkeypatch.setitem(postgres_line._SESSION, limit, postgres_line._SESSION[limit] // 20)
    async with opened(url) as ours, opened(url) as theirs:
        await ours.add(name("truck"), replace=False)
        entered = threading.Event()

        def act() -> None:
            entered.set()
            time.sleep(0.7)

        holding = asyncio.create_task(theirs.while_named(A, act))
        await asyncio.to_thread(entered.wait, LONG_S)
        removing = asyncio.create_task(ours.remove("truck", tenant=""))
        await holding
        assert await removing == {A}
        assert caplog.text == ""


async def test_a_new_connection_that_is_never_answered_is_given_up_too(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a pooler in front of a database that is gone."""
    monkeypatch.setattr(postgres_line, "JOB_S", 0.3)

    def hang(connection: Connection) -> None:
        connection.execute("SELECT pg_sleep(3)")

    postgres = Postgres(url, prepare=hang)
    with pytest.raises(psycopg.OperationalError):
        await postgres.ordered.run(lambda _: None)
    await postgres.close()


async def test_a_database_that_may_be_read_only_is_unreachable_until_it_may_be_written(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A standby, say. Each look for news works, so /readyz said "reachable" between two new names that failed."""

    def set_read_only(value: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            database = connection.info.dbname
            change = f"ALTER DATABASE {database} SET default_transaction_read_only = {value}"
            connection.execute(change.encode())
            connection.execute(END_OTHERS)

    async with opened(url) as ours:
        await ours.add(name("truck"), replace=False)
        set_read_only("on")
        for _ in range(2):
            with pytest.raises(NamesUnreachable):
                async with within(0.9):
                    await ours.add(name("car"), replace=False)
            async with within(LONG_S):
                await ours.catch_up()
            assert "read-only" in ours._postgres.problem
        set_read_only("off")
        async with within(LONG_S):
            await ours.add(name("car"), replace=False)
        await until(lambda: ours._postgres.problem == "")
        assert caplog.text.count("cannot be used") == caplog.text.count("works again") == 1
        assert "read-only" in caplog.text
