"""Names in a PostgreSQL that several servers share: what each sees of the others, and what a loss of it means."""

import asyncio
import logging
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest

from app.errors import ImageIdConflict
from app.names_errors import NamesUnreachable
from app.scheduling.deadlines import within
from app.settings import Settings
from app.storage import postgres as postgres_module
from app.storage.opening import SharingError, sharing_by
from app.storage.postgres import Postgres, UnusableDatabase
from app.storage.registers import NameRegister
from app.storage.shared_schema import VERSION, prepare
from app.storage.sharing import Sharing
from tests.app.storage.registers import A, name, opened
from tests.fakes import LONG_S, until
from tests.postgres import PostgresServer, running_postgres

B = "b" * 64


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture(scope="module")
def frail() -> Iterator[PostgresServer]:
    """A PostgreSQL that tests may kill."""
    with running_postgres() as server:
        yield server


def ids(register: NameRegister) -> list[str]:
    return sorted(each.image_id for each in register.newest(tenant="", limit=999, after=None))


async def test_a_name_of_another_server_is_found_before_it_counts_as_unknown(url: str) -> None:
    async with opened(url) as ours, opened(url) as theirs:
        await ours.add(name("truck"), replace=False)
        assert theirs.find("truck", tenant="") is None
        await theirs.catch_up()
        assert theirs.find("truck", tenant="") == ours.find("truck", tenant="")
        assert await theirs.changed_elsewhere()


async def test_one_look_serves_all_who_ask_for_it_meanwhile(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(url) as ours:
        looks: list[int] = []
        take_in = ours._take_in  # type: ignore[attr-defined]
        monkeypatch.setattr(ours, "_take_in", lambda connection: (looks.append(1), take_in(connection)))
        await asyncio.gather(*(ours.catch_up() for _ in range(50)))
        assert len(looks) <= 2


async def test_what_loses_its_last_name_is_removed_by_each_server(url: str) -> None:
    """Each may have a folder of its own."""
    here: list[str] = []
    there: list[str] = []
    async with opened(url, unnamed=here) as ours, opened(url, unnamed=there) as theirs:
        await ours.add(name("truck"), replace=False)
        await theirs.tend()
        assert await ours.remove("truck", tenant="") == {A}
        assert here == [A]
        await theirs.tend()
        assert there == [A]
        await ours.add(name("truck"), replace=False)
        await theirs.tend()
        await ours.remove("truck", tenant="")
        await ours.add(name("car"), replace=False)  # it has a name again, before the other one looks
        await theirs.tend()
        assert there == [A]


async def test_a_picture_that_two_servers_get_under_one_name_keeps_its_age(url: str) -> None:
    async with opened(url) as ours, opened(url) as theirs:
        await ours.add(name("truck", created=1000.0), replace=False)
        await theirs.add(name("truck", created=2000.0), replace=True)
        await ours.catch_up()
        for each in (ours, theirs):
            found = each.find("truck", tenant="")
            assert found is not None
            assert found.created == 1000.0


async def test_a_content_keeps_its_name_while_an_action_runs(url: str) -> None:
    entered, leave, order = threading.Event(), threading.Event(), list[str]()

    def appear() -> None:
        entered.set()
        assert leave.wait(LONG_S)
        order.append("appeared")

    async with opened(url) as ours, opened(url, unnamed=order) as theirs:
        await ours.add(name("truck"), replace=False)
        appearing = asyncio.create_task(ours.while_named(A, appear))
        await asyncio.to_thread(entered.wait, LONG_S)
        assert await theirs.while_named(A, lambda: order.append("beside it"))
        removing = asyncio.create_task(theirs.remove("truck", tenant=""))
        leave.set()
        await asyncio.gather(appearing, removing)
        assert order == ["beside it", "appeared", A]
        assert not await ours.while_named(A, lambda: order.append("never"))


async def test_many_servers_agree_whatever_they_do_at_once(url: str) -> None:
    chance = random.Random(5)  # noqa: S311  # no secret
    async with opened(url) as one, opened(url) as two, opened(url) as three:
        registers = [one, two, three]

        async def act() -> None:
            register, image_id = chance.choice(registers), f"n{chance.randrange(12)}"
            content = chance.choice("abcdef") * 64
            if chance.random() < 0.4:
                await register.remove(image_id, tenant="")
            elif chance.random() < 0.1:
                await register.catch_up()
            else:
                with suppress(ImageIdConflict):
                    await register.add(name(image_id, content), replace=chance.random() < 0.5)

        for _ in range(6):
            await asyncio.gather(*(act() for _ in range(40)))
        for each in registers:
            await each.catch_up()
        found = [each.newest(tenant="", limit=99, after=None) for each in registers]
        assert found[0]
        assert found[0] == found[1] == found[2]
    async with opened(url) as fresh:
        assert fresh.newest(tenant="", limit=99, after=None) == found[0]


async def test_uses_are_written_and_count_where_there_are_too_many(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.storage.shared_register.MOST_NAMES", 2)
    async with opened(url) as ours, opened(url) as theirs:
        for number, image_id in enumerate("abc"):
            await ours.add(name(image_id, image_id * 64, created=float(number)), replace=False)
        await theirs.catch_up()
        theirs.use(name("a"))
        await theirs.tend()
        used = theirs.used(name("a", created=0.0))
        assert used == 0.0  # written, so the row has it
        gone = await asyncio.gather(ours.expire(), theirs.expire())
        assert set().union(*gone) == {"b" * 64}
        await asyncio.gather(ours.catch_up(), theirs.catch_up())
        assert ids(ours) == ids(theirs) == ["a", "c"]


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
    monkeypatch.setattr(postgres_module, "JOB_S", 0.3)
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


async def test_a_server_that_was_away_for_hours_reads_everything(url: str) -> None:
    async with opened(url) as ours, opened(url) as theirs:
        await theirs.add(name("truck"), replace=False)
        await ours.catch_up()
        await theirs.remove("truck", tenant="")
        await theirs.add(name("car"), replace=False)
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE sam2_removed SET removed = now() - interval '2 hours'")
        theirs._forget_at = 0.0  # type: ignore[attr-defined]
        await theirs.tend()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM sam2_removed").fetchall() == [(0,)]
        await ours.catch_up()
        assert ids(ours) == ["car"]


def test_servers_that_start_at_once_make_the_tables_once(url: str) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                prepare(connection)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT version FROM sam2_schema").fetchall() == [(VERSION,)]


async def test_tables_of_a_newer_server_are_left_alone(url: str) -> None:
    async with opened(url):
        pass
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE sam2_schema SET version = 99")
    sharing = Sharing(url)
    with pytest.raises(UnusableDatabase, match="newer server: version 99, and this one knows"):
        await sharing.open()
    await sharing.close()


async def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    sharing = Sharing(postgres.url("latin"))
    with pytest.raises(
        UnusableDatabase, match=r"SAM2_REGISTER_URL: PostgreSQL at 127.0.0.1:\d+/latin .*LATIN1"
    ):
        await sharing.open()
    await sharing.close()


@pytest.mark.parametrize("place", ["user:geheim@127.0.0.1:1/sam2", "127.0.0.1:1/sam2?user=a&password=geheim"])
async def test_a_password_is_never_shown(
    place: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    sharing = Sharing(f"postgresql://{place}")
    await sharing.open()
    await until(lambda: bool(sharing.problem))
    await sharing.close()
    assert "127.0.0.1:1/sam2" in sharing.problem
    settings = Settings(register_url=f"postgresql://{place}")
    for text in (caplog.text, sharing.problem, repr(settings), *capsys.readouterr()):
        assert "geheim" not in text


def test_a_url_that_cannot_be_read_is_not_quoted() -> None:
    with pytest.raises(SharingError, match="cannot read this URL") as caught:
        sharing_by(Settings(register_url="postgresql://user:geheim@host/sam2?nonsense=1"))
    assert "geheim" not in str(caught.value)
    with pytest.raises(ValueError, match="must begin with postgresql://") as wrong:
        Settings(register_url="mysql://user:geheim@host")
    assert "geheim" not in str(wrong.value)


async def test_a_mistake_of_ours_is_no_loss_of_the_database(url: str) -> None:
    """Otherwise one bad request would keep all others waiting."""
    postgres = Postgres(url, prepare=prepare)
    await postgres.open()
    with pytest.raises(psycopg.DataError):
        await postgres.once(lambda connection: connection.execute("SELECT 1 / 0"))
    assert postgres.problem == ""
    await postgres.close()


def test_without_the_driver_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [each for each in sys.modules if each.startswith("app.storage.sh")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "app.storage.postgres")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SharingError, match=r"pip install '\.\[postgres\]'"):
        sharing_by(Settings(register_url="postgresql://host/sam2"))
