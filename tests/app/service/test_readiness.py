"""Readiness while the model loads, when it cannot be loaded, and when its device thread has crashed."""

import asyncio
import threading
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.fakes import FakeSegmenter, Served, error, picture, serving, until


async def loading(load: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the app, with `load` instead of the real loading, and a client. Does not wait for loading."""
    monkeypatch.setattr("app.main.load_segmenter", load)
    app = create_app(Settings(workers=2))
    return app, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


async def test_until_the_model_is_loaded_and_warm_everything_but_healthz_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gates = {"load": threading.Event(), "warm": threading.Event()}
    reached = []

    class Slow(FakeSegmenter):
        def warm_up(self) -> None:
            reached.append("warm")
            gates["warm"].wait(20)

    def load(_: Settings) -> FakeSegmenter:
        gates["load"].wait(20)
        return Slow()

    app, client = await loading(load, monkeypatch)
    async with app.router.lifespan_context(app), client:
        served = Served(app, client, FakeSegmenter())
        for gate in ("load", "warm"):
            if gate == "warm":
                await until(lambda: reached == ["warm"])
            assert (await client.get("/healthz")).json() == {"status": "ok"}
            assert (await client.get("/metrics")).status_code == 200
            for response in (
                await client.get("/readyz"),
                await client.get("/model"),
                await client.get("/images"),
                await served.embed(picture()),
                await served.click("truck"),
            ):
                assert error(response) == (503, "not_ready")
                assert "loading" in response.json()["error"]["message"]
                assert int(response.headers["retry-after"]) >= 1
            gates[gate].set()
        await until(lambda: app.state.service._segmenter is not None)
        response = await client.get("/readyz")
        assert (response.status_code, response.json()) == (200, {"status": "ready"})


async def test_a_model_that_cannot_be_loaded_is_told_to_all_who_ask(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(_: Settings) -> FakeSegmenter:
        raise ValueError("device 'tpu' cannot be used here")

    app, client = await loading(load, monkeypatch)
    async with app.router.lifespan_context(app), client:
        await until(lambda: app.state.service.failure is not None)
        for path in ("/readyz", "/model"):
            response = await client.get(path)
            assert error(response) == (503, "not_ready")
            assert "device 'tpu' cannot be used here" in response.json()["error"]["message"]
        assert (await client.get("/healthz")).status_code == 200
    assert "device 'tpu' cannot be used here" in caplog.text


async def test_stopping_while_the_model_loads_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def load(_: Settings) -> FakeSegmenter:
        gate.wait(20)
        return FakeSegmenter()

    app, client = await loading(load, monkeypatch)
    async with client, app.router.lifespan_context(app):
        assert error(await client.get("/readyz")) == (503, "not_ready")
        await until(lambda: app.state.service._device.alive)
        asyncio.get_running_loop().call_later(0.05, gate.set)
    assert not app.state.service._device.alive


async def test_a_broken_device_thread_is_not_ready() -> None:
    async with serving() as served:
        await served.service._device.close()
        response = await served.client.get("/readyz")
        assert error(response) == (503, "not_ready")
        assert "restarted" in response.json()["error"]["message"]
