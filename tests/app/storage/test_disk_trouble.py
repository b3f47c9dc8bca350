"""What the log says of a disk or a bucket that fails."""

import pytest

from app.storage import disk_trouble
from app.storage.disk_trouble import DiskTrouble


def test_reads_that_fail_between_writes_that_work_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(disk_trouble, "monotonic", lambda: now)
    counted: list[None] = []
    trouble = DiskTrouble("s3://bucket", on_failure=lambda: counted.append(None))

    def fail_and_work() -> None:
        trouble.report("a picture cannot be read", OSError("access denied"))
        trouble.over()

    for _ in range(100):
        fail_and_work()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert len(counted) == 100
    now += disk_trouble.QUIET_S
    for _ in range(100):
        fail_and_work()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"] * 2


def test_an_outage_soon_after_another_one_is_said_if_it_lasts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(disk_trouble, "monotonic", lambda: now)
    trouble = DiskTrouble("/mnt/cache")
    trouble.report("an embedding cannot be written", OSError("disk full"))
    trouble.over()
    for _ in range(3):
        now += 25
        trouble.report("an embedding cannot be written", OSError("disk full again"))
    trouble.over()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4
    assert "disk full again (3 failures so far)" in said[2]
    assert "works again, after 3 failures" in said[3]
