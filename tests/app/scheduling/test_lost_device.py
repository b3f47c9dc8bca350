"""A device that has failed for good: readiness, replies, the log, and the end of the process."""

import logging
from pathlib import Path

import pytest

from app.scheduling.watchdog import EXIT_CODE
from app.settings import Settings
from model.errors import DeviceLost
from model.types import Embedding
from tests.fakes import FakeSegmenter, error, picture, serving, until

SAID = "cuda:0 has failed: an illegal memory access was encountered"


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records exit codes instead of ending the test process."""
    codes: list[int] = []
    monkeypatch.setattr("app.scheduling.watchdog.end_process", codes.append)
    monkeypatch.setattr("app.scheduling.watchdog.LAST_REPLIES_S", 0.01)
    return codes


@pytest.mark.parametrize("watchdog_s", [0, 60])
@pytest.mark.parametrize("what", ["embed", "decode"])
async def test_a_lost_device_is_reported_at_once_and_the_process_ends_for_its_supervisor(
    what: str, watchdog_s: float, ends: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Errors of a GPU stay: before, each of thirty uploads got 500, and /readyz returned 200."""
    async with serving(Settings(workers=2, watchdog_s=watchdog_s)) as served:
        await served.embed(picture(), "truck")
        served.segmenter.fail_next = DeviceLost(SAID)
        reply = await (served.embed(picture(shade=1)) if what == "embed" else served.click("truck"))
        assert error(reply) == (503, "not_ready")
        batches = len(served.segmenter.encoded + served.segmenter.decoded)
        for path in ("/readyz", "/model"):
            assert error(await served.client.get(path)) == (503, "not_ready")
        for later in (await served.embed(picture(shade=2)), await served.click("truck")):
            assert error(later) == (503, "not_ready")
            assert int(later.headers["retry-after"]) >= 1
        assert len(served.segmenter.encoded + served.segmenter.decoded) == batches
        await until(lambda: ends != [])
    assert ends == [EXIT_CODE]
    (critical,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert SAID in critical.getMessage()


async def test_an_embedding_that_comes_back_may_find_the_device_lost(tmp_path: Path, ends: list[int]) -> None:
    class Lost(FakeSegmenter):
        def adopt(self, embedding: Embedding) -> Embedding:
            raise DeviceLost(SAID)

    async with serving(Settings(cache_dir=str(tmp_path), workers=2), Lost()) as served:
        await served.embed(picture(), "truck")
        store = served.service.store
        content = (await store.look_up("truck", tenant="")).content
        while "disk" not in (await store.describe("truck", tenant="")).tiers:
            await served.client.get("/healthz")
        store.tiers.drop(content)
        assert error(await served.click("truck")) == (503, "not_ready")
        assert error(await served.client.get("/readyz")) == (503, "not_ready")
        await until(lambda: ends == [EXIT_CODE])


async def test_other_failures_leave_the_server_ready(ends: list[int]) -> None:
    async with serving() as served:
        served.segmenter.fail_next = RuntimeError("a bug")
        assert error(await served.embed(picture())) == (500, "inference_failed")
        assert (await served.client.get("/readyz")).status_code == 200
    assert ends == []
