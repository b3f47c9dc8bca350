"""Names in a PostgreSQL that several servers share: what each sees of the others."""

import asyncio
import math
import random
import threading
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from app.errors import ImageIdConflict
from app.storage.shared_names import SharedNames
from tests.app.storage.registers import A, ids, name, opened
from tests.fakes import LONG_S


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


async def test_what_another_server_expires_meanwhile_does_not_make_one_more_surplus(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.storage.shared_register.MOST_NAMES", 2)
    async with opened(url) as ours:
        for number, image_id in enumerate("abc"):
            await ours.add(name(image_id, image_id * 64, created=float(number)), replace=False)

        class Overtaken(psycopg.Connection[tuple[Any, ...]]):
            def execute(self, query: Any, *given: Any, **more: Any) -> Any:
                if query == "SELECT count(*) FROM sam2_names WHERE kind = %s":
                    counted = super().execute(query, *given, **more)
                    with psycopg.connect(url) as other:
                        other.execute("DELETE FROM sam2_names WHERE id = 'a'")
                    return counted
                return super().execute(query, *given, **more)

        with Overtaken.connect(url, autocommit=True) as connection:
            assert [key.image_id for key, _ in SharedNames("image").old(connection, -math.inf, most=2)] == [
                "a"
            ]


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
