"""Which Fronts there are, as Devices know it, and as GET /cluster of each of them says it."""

import asyncio

import pytest

from app.cluster import fronts as fronts_module
from app.cluster.fronts import Fronts
from app.service.segmentation import FrontState
from tests.app.cluster.fronts import front
from tests.fakes import LONG_S

ONE, TWO = FrontState("gpu-host", 4700), FrontState("other-host", 4700)


def test_a_front_that_asks_no_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(fronts_module, "monotonic", lambda: now)
    fronts = Fronts()
    fronts.note(ONE)
    now += 8
    fronts.note(TWO)
    assert set(fronts.lately()) == {ONE, TWO}
    now += 8
    assert fronts.lately() == (TWO,)
    fronts.note(ONE)
    assert set(fronts.lately()) == {ONE, TWO}


async def test_each_front_lists_all_beginning_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.watch._EVERY_S", 0.01)
    here = FrontState.here()
    async with front(devices=2) as (served, devices), asyncio.timeout(LONG_S):
        devices.fronts = (TWO, here, ONE)
        wanted = [{"node": each.node, "pid": each.pid} for each in (here, ONE, TWO)]
        while True:
            if (await served.client.get("/cluster")).json()["fronts"] == wanted:
                break
            await asyncio.sleep(0.01)
