"""A device that hangs or dies: what /readyz returns, when the process ends, and what it logs then."""

import asyncio
import contextlib
import json
import logging
import threading
from pathlib import Path

import httpx
import pytest

from app.errors import NotReady
from app.scheduling.device import DeviceThread
from app.scheduling.watchdog import EXIT_CODE, PATIENCE, Watchdog
from app.settings import Settings
from tests.app.server_process import CLICK, embed, real_server
from tests.fakes import LONG_S, error, picture, serving, until


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records exit codes instead of ending the test process."""
    codes: list[int] = []
    monkeypatch.setattr("app.scheduling.watchdog.end_process", codes.append)
    return codes


async def hanging() -> tuple[DeviceThread, threading.Event, "asyncio.Task[None]"]:
    """Start a device that hangs in a job until the event is set."""
    device, gate, entered = DeviceThread(), threading.Event(), threading.Event()
    device.start()

    def hang() -> None:
        entered.set()
        gate.wait(LONG_S)

    running = asyncio.create_task(device.run(hang))
    assert await asyncio.to_thread(entered.wait, LONG_S)
    return device, gate, running


def look(watchdog: Watchdog, checks: int) -> None:
    """Run this number of checks."""
    for _ in range(checks):
        watchdog._look()


async def test_a_server_that_hangs_is_not_ready_until_it_answers_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Settings(workers=2, watchdog_s=0.5)) as served:
        await served.embed(picture(), "truck")
        assert (await served.client.get("/readyz")).status_code == 200
        served.segmenter.gate.clear()
        click = asyncio.create_task(served.click("truck"))
        await until(lambda: served.service._watchdog.stuck)
        for response in (await served.client.get("/readyz"), await served.click("truck")):
            assert error(response) == (503, "not_ready")
            assert "0.5 s (SAM2_WATCHDOG_S)" in response.json()["error"]["message"]
            assert int(response.headers["retry-after"]) >= 1
        assert (await served.client.get("/healthz")).status_code == 200
        assert "\nsam2_ready 0.0\n" in (await served.client.get("/metrics")).text
        served.segmenter.gate.set()
        assert (await click).status_code == 200
        assert (await served.client.get("/readyz")).status_code == 200
        assert (await served.click("truck")).status_code == 200
        await until(lambda: "answers again" in caplog.text)
    assert "ends in 1 s unless" in caplog.text


async def test_a_device_that_does_not_come_back_ends_the_process_with_its_stack(
    ends: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    device, gate, running = await hanging()
    watchdog = Watchdog(device, limit_s=10)
    look(watchdog, 1 + 9)
    assert not watchdog.stuck
    look(watchdog, 1)
    assert watchdog.stuck
    look(watchdog, 10 * PATIENCE - 1)
    assert ends == []
    look(watchdog, 1)
    assert ends == [EXIT_CODE]
    (critical,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "no sign of life for 30 s" in critical.getMessage()
    assert "in hang" in str(critical.stack_info)
    gate.set()
    await running
    await device.close()


async def test_a_long_batch_that_lets_others_pass_does_not_hang() -> None:
    device, steps, passed = DeviceThread(), threading.Semaphore(0), threading.Semaphore(0)
    device.start()

    def long() -> None:
        for _ in range(30):
            steps.acquire()
            device.overtake()
            passed.release()

    running = asyncio.create_task(device.run(long))
    await asyncio.sleep(0)
    watchdog = Watchdog(device, limit_s=10)
    for _ in range(30):
        look(watchdog, 5)
        assert not watchdog.stuck
        steps.release()
        assert await asyncio.to_thread(passed.acquire, True, LONG_S)
    await running
    await device.close()


async def test_an_idle_device_does_not_hang(ends: list[int]) -> None:
    device = DeviceThread()
    device.start()
    watchdog = Watchdog(device, limit_s=10)
    look(watchdog, 100)
    watchdog.check()
    assert ends == []
    await device.close()


async def test_a_dead_device_thread_ends_the_process_too(
    ends: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    device = DeviceThread()
    device.start()
    await device.close()
    watchdog = Watchdog(device, limit_s=10)
    with pytest.raises(NotReady, match="crashed"):
        watchdog.check()
    look(watchdog, 30)
    assert ends == [EXIT_CODE]
    assert "dead for 30 s" in caplog.text
    assert "The thread has ended" in str(caplog.records[-1].stack_info)


async def test_nothing_is_watched_where_the_setting_says_so() -> None:
    async with serving(Settings(workers=2, watchdog_s=0)) as served:
        assert "watchdog" not in [thread.name for thread in threading.enumerate()]
        assert not served.service._watchdog.stuck
    async with serving():
        assert "watchdog" in [thread.name for thread in threading.enumerate()]
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]


def test_a_real_process_ends_with_3_and_its_log_is_json_to_the_last_line(tmp_path: Path) -> None:
    with real_server(tmp_path, "--watchdog-s", "2", "--log-format", "json") as server:
        with server.client() as client:
            assert embed(client, picture(), "truck").status_code == 200
            server.block()
            threading.Thread(target=click_in_vain, args=(server.client(),)).start()
            server.wait_until_entered()
        assert server.process.wait(LONG_S) == EXIT_CODE
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert lines[-1]["level"] == "critical"
    assert "in wait" in lines[-1]["stack"]


def click_in_vain(client: httpx.Client) -> None:
    """Send a request to a server that ends before it answers."""
    with client, contextlib.suppress(httpx.TransportError):
        client.post("/decode", json=CLICK)
