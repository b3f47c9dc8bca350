"""Stopping: waiting requests get an error, running ones are finished, and a device that hangs is not waited for."""

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.app.requests_under_way import block, start, waiting_prompts
from tests.fakes import FakeSegmenter, Served, error, picture, serving, until


async def test_stopping_answers_all_who_wait_and_finishes_what_runs() -> None:
    async with serving() as served:
        blocking = await block(served)
        waiting = start(served.click("blocked"), *(served.embed(picture(shade=shade)) for shade in range(12)))
        await until(lambda: len(served.service._encodings) == 12 and waiting_prompts(served) == 1)
        served.service.drain()
        for call in waiting:
            response = await call
            assert error(response) == (503, "shutting_down")
            assert int(response.headers["retry-after"]) >= 1
        for response in (
            await served.click("blocked"),
            await served.embed(picture()),
            await served.client.get("/readyz"),
        ):
            assert error(response) == (503, "shutting_down")
        assert (await served.client.get("/healthz")).status_code == 200
        assert not blocking.done()
        served.segmenter.gate.set()
        assert (await blocking).status_code == 200


async def test_a_device_that_hangs_does_not_keep_the_server_from_stopping(
    caplog: pytest.LogCaptureFixture,
) -> None:
    segmenter = FakeSegmenter()
    app = create_app(Settings(deadline_s=0.1, workers=2), segmenter)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
    async with client, app.router.lifespan_context(app):
        served = Served(app, client, segmenter)
        await until(lambda: served.service._segmenter is not None)
        segmenter.gate.clear()
        assert error(await served.embed(picture())) == (504, "deadline_exceeded")
    assert "still busy after 0.1 s" in caplog.text
    segmenter.gate.set()
    await served.service.close()
