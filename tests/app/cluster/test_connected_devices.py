"""A Front's connections to Devices on loopback: owners, devices that are busy or end, steps, cancelling."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from app.cluster import listener
from app.cluster.calls import Answer, Answering, Call, FrameStep
from app.cluster.connected_devices import ConnectedDevices
from app.cluster.keys import of_image, of_track
from app.cluster.listener import AHEAD, Listener
from app.errors import ShuttingDown
from app.service.segmentation import Segmentation
from app.service.track_values import FrameAnswer
from tests.fakes import until

LOOPBACK = "127.0.0.1"


class Service:
    """What a Device does here: it answers when the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = self.ended = self.frames = 0
        self.tracks = self

    async def describe(self, **said: Any) -> Any:
        self.begun += 1
        try:
            await self.gate.wait()
        finally:
            self.ended += 1
        return said

    async def export(self, *, size: int = 0, **_: Any) -> Any:
        return b"x" * size if size else lambda: "cannot travel"

    async def propagate(self, *, count: int) -> AsyncIterator[FrameAnswer]:
        for i in range(count):
            self.frames += 1
            yield FrameAnswer(i, [], None)


class Cluster:
    """Devices and a Front that is connected to them."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.listeners: dict[str, Listener] = {}
        self.losses = 0
        self.front = ConnectedDevices(self._lose)

    def _lose(self) -> None:
        self.losses += 1

    async def add(self, name: str) -> None:
        self.services[name] = Service()
        device = Answering(cast(Segmentation, self.services[name]), name)
        self.listeners[name] = Listener(device, always_taken=4)
        await self.listeners[name].open(LOOPBACK)

    async def know(self) -> dict[str, str]:
        return await self.front.know(each.address for each in self.listeners.values())

    async def ask(self, key: str = of_image("p", "t")) -> Answer:
        return await self.front.ask(key, call("describe", name=key))

    def kill(self, name: str) -> None:
        """End a device without a word."""
        self.listeners[name]._server.close()
        for each in list(self.listeners[name]._connections):
            each.abort()


def call(method: str, **arguments: Any) -> Call:
    return Call(method, arguments, 10.0, "request")


@asynccontextmanager
async def cluster(count: int = 3) -> AsyncIterator[Cluster]:
    made = Cluster()
    for i in range(count):
        await made.add(f"d{i}")
    assert await made.know() == {}
    try:
        yield made
    finally:
        made.front.close()
        for name in made.listeners:
            made.kill(name)


async def test_a_key_has_one_device_and_keys_are_spread() -> None:
    async with cluster() as made:
        owners = {f"k{i}": (await made.ask(f"k{i}")).device for i in range(30)}
        assert set(owners.values()) == {"d0", "d1", "d2"}
        for key, owner in owners.items():
            answer = await made.ask(key)
            assert (answer.device, answer.value) == (owner, {"name": key})
        assert {(await made.ask("")).device for _ in range(60)} == set(made.listeners)


async def test_a_picture_is_passed_on_by_a_busy_device_and_a_track_is_not() -> None:
    async with cluster() as made:
        for key in (of_image("truck", "ann"), of_track("walk", "ann")):
            owner = (await made.ask(key)).device
            made.services[owner].gate.clear()
            waiting = [asyncio.create_task(made.ask(key)) for _ in range(4)]
            await until(lambda owner=owner: made.listeners[owner].under_way == 4)
            more = asyncio.create_task(made.ask(key))
            if key == of_image("truck", "ann"):
                assert (await more).device != owner
            else:
                await until(lambda owner=owner: made.listeners[owner].under_way == 5)
            made.services[owner].gate.set()
            assert {(await each).device for each in waiting} == {owner}
            await more


async def test_a_front_that_stops_waits_for_no_new_device() -> None:
    """All that runs may have been told to stop at once, as systemd does."""
    async with cluster(1) as made:
        made.kill("d0")
        await until(lambda: made.losses == 1)
        waiting = asyncio.create_task(made.ask())
        await asyncio.sleep(0)
        assert not waiting.done()
        made.front.drain()
        with pytest.raises(ShuttingDown):
            await waiting
        with pytest.raises(ShuttingDown):
            await made.ask()


async def test_a_front_that_stops_has_its_calls_answered() -> None:
    async with cluster(1) as made:
        made.services["d0"].gate.clear()
        waiting = asyncio.create_task(made.ask())
        await until(lambda: made.services["d0"].begun == 1)
        made.front.drain()
        made.services["d0"].gate.set()
        assert (await waiting).device == "d0"
        assert (await made.ask()).device == "d0"  # a frame of a propagation, say


async def test_who_does_not_wait_any_more_ends_the_work() -> None:
    async with cluster(1) as made:
        made.services["d0"].gate.clear()
        waiting = asyncio.create_task(made.ask())
        await until(lambda: made.services["d0"].begun == 1)
        waiting.cancel()
        await until(lambda: made.services["d0"].ended == 1)
        await until(lambda: made.listeners["d0"].under_way == 0)
        made.services["d0"].gate.set()
        assert (await made.ask()).device == "d0"


async def test_a_device_that_dies_is_an_error_for_its_calls_alone_and_asked_no_more() -> None:
    async with cluster() as made:
        owner = (await made.ask()).device
        for service in made.services.values():
            service.gate.clear()
        calls = [asyncio.create_task(made.ask(f"k{i}")) for i in range(9)]
        await until(lambda: sum(service.begun for service in made.services.values()) == 9 + 1)
        under_way = made.listeners[owner].under_way
        made.kill(owner)
        await until(lambda: sum(each.done() for each in calls) == under_way)
        for each in calls:
            if each.done():
                assert isinstance(each.exception(), ConnectionError)
        for service in made.services.values():
            service.gate.set()
        assert owner not in {(await each).device for each in calls if not each.done()}
        assert (await made.ask()).device != owner
        assert made.losses == 1
        assert made.services[owner].ended == made.services[owner].begun  # nobody waits for it


async def test_a_front_that_dies_ends_its_work_at_the_devices() -> None:
    async with cluster(1) as made:
        made.services["d0"].gate.clear()
        waiting = asyncio.create_task(made.ask())
        await until(lambda: made.services["d0"].begun == 1)
        made.front.close()
        await until(lambda: made.services["d0"].ended == 1)
        with pytest.raises(ConnectionError):
            await waiting


async def test_a_device_that_is_stopped_answers_what_it_was_asked_and_gets_no_more() -> None:
    async with cluster(2) as made:
        owner = (await made.ask()).device
        made.services[owner].gate.clear()
        waiting = asyncio.create_task(made.ask())
        await until(lambda: made.listeners[owner].under_way == 1)
        closing = asyncio.create_task(made.listeners[owner].close(patience_s=10))
        await until(lambda: made.losses == 1)
        assert (await made.ask()).device != owner
        assert await made.know() == {}  # the engine still names it
        assert (await made.ask()).device != owner
        made.services[owner].gate.set()
        assert (await waiting).device == owner
        await closing
        assert not made.listeners[owner]._connections  # all has been sent: the process may end


async def test_a_device_that_the_engine_has_given_up_gets_no_more_calls_until_it_is_back() -> None:
    async with cluster(2) as made:
        owner = (await made.ask()).device
        made.services[owner].gate.clear()
        waiting = asyncio.create_task(made.ask())
        await until(lambda: made.listeners[owner].under_way == 1)
        made.front.keep(made.listeners)
        assert made.losses == 0
        made.front.keep(made.listeners.keys() - {owner})
        assert made.losses == 1
        assert (await made.ask()).device != owner
        made.services[owner].gate.set()
        assert (await waiting).device == owner
        assert await made.know() == {}
        assert (await made.ask()).device == owner
        assert len(made.listeners[owner]._connections) == 1


async def test_a_device_that_is_stopped_does_not_wait_for_ever() -> None:
    async with cluster(1) as made:
        made.services["d0"].gate.clear()
        waiting = asyncio.create_task(made.ask())
        await until(lambda: made.listeners["d0"].under_way == 1)
        await made.listeners["d0"].close(patience_s=0)
        with pytest.raises(ConnectionError):
            await waiting


async def test_calls_wait_while_there_is_no_device() -> None:
    async with cluster(1) as made:
        made.kill("d0")
        await until(lambda: made.losses == 1)
        waiting = asyncio.create_task(made.ask())
        await asyncio.sleep(0)
        del made.listeners["d0"]
        await made.add("d1")
        assert await made.know() == {}
        assert (await waiting).device == "d1"


async def test_a_device_that_cannot_be_reached_is_named_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with cluster(1) as made:
        await made.add("d1")
        address = made.listeners["d1"].address
        made.kill("d1")
        said = await made.front.know([address])
        assert f"cannot connect to {LOOPBACK}:{address.port}" in said["d1"]
        await made.add("d1")
        wrong = replace(made.listeners["d1"].address, secret=b"x" * 32)
        assert "d1" in await made.front.know([wrong])
        assert "does not know the secret" in caplog.text
        assert (await made.ask()).device == "d0"
        assert repr(wrong.secret) not in repr(wrong)


async def test_a_device_is_a_few_steps_ahead_of_who_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(1) as made:
        service = made.services["d0"]
        steps = made.front.ask_in_steps(of_track("w", "t"), call("tracks.propagate", count=50))
        async with aclosing(steps):
            first = await anext(steps)
            assert isinstance(first, FrameStep)
            await until(lambda: service.frames == AHEAD + 1)
            for _ in range(100):
                await asyncio.sleep(0)
            assert service.frames == AHEAD + 1
            seen = [each async for each in steps]
        assert len(seen) == 50
        assert isinstance(seen[-1], Answer)
        left = made.front.ask_in_steps(of_track("w", "t"), call("tracks.propagate", count=50))
        async with aclosing(left):
            await anext(left)
        await until(lambda: made.listeners["d0"].under_way == 0)
        lost = made.front.ask_in_steps(of_track("w", "t"), call("tracks.propagate", count=50))
        await anext(lost)
        made.kill("d0")
        with pytest.raises(ConnectionError):
            [each async for each in lost]


@pytest.mark.parametrize("method", ["delete_all", "export"])
async def test_what_a_device_cannot_answer_is_told_as_a_bug(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with cluster(1) as made:
        assert (await made.front.ask("k", call(method))).bug
        assert "Internal error" in caplog.text
        steps = made.front.ask_in_steps("k", call(method))
        (only,) = [each async for each in steps]
        assert isinstance(only, Answer)
        assert only.bug
        assert listener.log.name in {record.name for record in caplog.records}


async def test_an_answer_that_is_too_large_is_told_as_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(1) as made:
        monkeypatch.setattr("app.cluster.messages.MESSAGE_BYTES", 1000)
        said = await made.front.ask("k", call("export", size=2000))
        assert "of 1000 at most" in said.bug
