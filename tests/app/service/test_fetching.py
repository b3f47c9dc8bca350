"""Clicks on pictures that are not on the device: how many hold an embedding at a time, and whose turn is next."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import Settings
from tests.app.requests_under_way import start
from tests.app.scheduling.test_fair_shares import Clients, settings
from tests.fakes import Served, error, picture, serving, until


async def cool(served: Served, *pictures: str, by: Served | None = None) -> None:
    """Embed pictures, and leave them on the disk only."""
    for shade, name in enumerate(pictures):
        assert (await (by or served).embed(picture(shade=shade), name)).status_code == 200
        await served.segmenter.wait_until_entered()
    tiers = served.service.store.tiers
    await until(lambda: not tiers._saving)
    await tiers.shed(1)
    assert not tiers.device


async def busy(by: Served) -> "asyncio.Task[httpx.Response]":
    """Keep the device busy with a click until the gate opens."""
    await by.embed(picture(shade=255), "busy")
    await by.segmenter.wait_until_entered()
    by.segmenter.gate.clear()
    click = asyncio.create_task(by.click("busy"))
    await by.segmenter.wait_until_entered()
    return click


def noted_finds(served: Served, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the ids of pictures are added when their embeddings are found."""
    found = list[str]()
    find = served.service._fetching._find

    async def noting(image_id: str, **whose: Any) -> Any:
        found.append(image_id)
        return await find(image_id, **whose)

    monkeypatch.setattr(served.service._fetching, "_find", noting)
    return found


def waiting(served: Served) -> int:
    return sum(map(len, served.service._fetching._turns._waiting.values()))


async def test_a_click_that_waits_for_its_turn_holds_no_embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 clicks at once on pictures of the disk took 1.9 GB, where the store was allowed 16 MiB."""
    names = [str(number) for number in range(12)]
    async with serving(Settings(workers=2, cache_dir=str(tmp_path), batch_prompts=3)) as served:
        await cool(served, *names)
        blocking = await busy(served)
        found = noted_finds(served, monkeypatch)
        clicks = start(*map(served.click, names))
        await until(lambda: waiting(served) == 9)
        assert len(found) == 3
        served.segmenter.gate.set()
        replies = await asyncio.gather(blocking, *clicks)
        assert [reply.status_code for reply in replies] == [200] * 13
        assert sorted(found) == sorted(names)
        assert served.service._fetching._turns._taken == 0


async def test_what_is_on_the_device_waits_for_nobody(tmp_path: Path) -> None:
    async with serving(Settings(workers=2, cache_dir=str(tmp_path), batch_prompts=1)) as served:
        await cool(served, "0", "1", "2")
        blocking = await busy(served)
        cold = start(*map(served.click, "012"))
        await until(lambda: waiting(served) == 2)
        (warm,) = start(served.click("busy"))
        await until(lambda: served.service._decoder.waiting == 1)  # it is in the queue of the decoder
        served.segmenter.gate.set()
        replies = await asyncio.gather(blocking, warm, *cold)
        assert [reply.status_code for reply in replies] == [200] * 5


async def test_a_client_with_many_such_clicks_does_not_keep_another_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings(cache_dir=str(tmp_path), batch_prompts=1)) as served:
        clients = Clients(served)
        await cool(served, "theirs", by=clients.guest)
        await cool(served, "0", "1", "2", by=clients.crowd)
        blocking = await busy(clients.third)
        found = noted_finds(served, monkeypatch)
        crowd = start(*map(clients.crowd.click, "012"))
        await until(lambda: waiting(served) == 2)
        guest = start(clients.guest.click("theirs"))
        await until(lambda: found == ["0", "theirs"])
        served.segmenter.gate.set()
        replies = await asyncio.gather(blocking, *guest, *crowd)
        assert [reply.status_code for reply in replies] == [200] * 5


async def test_more_than_may_wait_are_told_to_come_again(tmp_path: Path) -> None:
    limits = {"batch_prompts": 1, "max_prompts": 3, "max_waiting_prompts": 3}
    async with serving(Settings(workers=2, cache_dir=str(tmp_path), **limits)) as served:
        await cool(served, *"01234")
        blocking = await busy(served)
        clicks = start(*map(served.click, "0123"))
        await until(lambda: any(click.done() for click in clicks))
        await until(lambda: waiting(served) == 2)
        (refused,) = [click.result() for click in clicks if click.done()]
        assert error(refused) == (503, "overloaded")
        assert "SAM2_MAX_WAITING_PROMPTS" in refused.text
        assert int(refused.headers["retry-after"]) >= 1
        served.segmenter.gate.set()
        replies = await asyncio.gather(blocking, *clicks)
        assert sorted(reply.status_code for reply in replies) == [200, 200, 200, 200, 503]
        assert (await served.click("4")).status_code == 200


async def test_a_picture_that_is_deleted_while_its_click_waits_is_not_found(tmp_path: Path) -> None:
    async with serving(Settings(workers=2, cache_dir=str(tmp_path), batch_prompts=1)) as served:
        await cool(served, "0", "1")
        blocking = await busy(served)
        clicks = start(*map(served.click, "01"))
        await until(lambda: waiting(served) == 1)
        assert (await served.client.delete("/images/1")).status_code == 204
        served.segmenter.gate.set()
        assert (await blocking).status_code == 200
        first, second = await asyncio.gather(*clicks)
        assert first.status_code == 200
        assert error(second) == (404, "image_not_found")
