"""The first connection to a PostgreSQL: its tables, databases that are refused, passwords that are not shown."""

import logging
import sys
import threading

import psycopg
import pytest

from app.settings import Settings
from app.storage.opening import SharingError, sharing_by
from app.storage.postgres import Postgres, UnusableDatabase
from app.storage.shared_schema import VERSION, prepare
from app.storage.sharing import Sharing
from tests.app.storage.registers import opened
from tests.fakes import until
from tests.postgres import PostgresServer


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
    for place in (
        "host:99999/sam2",
        "host:0/sam2",
        "host/sam2?sslmode=always",
        "host/sam2?connect_timeout=2s",
    ):
        with pytest.raises(
            SharingError, match=r"does not take this URL: .*invalid|bad value"
        ):  # tried for ever
            sharing_by(Settings(register_url=f"postgresql://user:geheim@{place}"))
    with pytest.raises(SharingError, match="as %2F") as caught:
        sharing_by(Settings(register_url="postgresql://user:geheim/x@host/sam2"))
    assert "geheim" not in str(caught.value)
    for place in (
        "",
        "h1:1,h2:2/sam2?target_session_attrs=read-write",
        "/sam2?host=/run/none",
        "h:1/?hostaddr=::1",
    ):
        assert sharing_by(Settings(register_url=f"postgresql://{place}")) is not None
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
