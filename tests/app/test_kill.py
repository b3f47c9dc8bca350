"""kill -9: uploads acknowledged a second before are kept, deleted ones are not, and no file is torn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.middleware.access import ANYONE
from app.telemetry.stages import StageTimes
from tests.app.killed_servers import settings
from tests.fakes import serving
from tests.server import ROOT, environment

ROUNDS = 2
DURABLE_S = 1.0
"""Seconds after the reply, as docs/operating.md promises."""


async def test_nothing_that_was_acknowledged_is_lost_and_nothing_deleted_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subprocess.run(  # noqa: ASYNC221  # nothing else runs in this loop
        [sys.executable, "-W", "ignore", "-m", "tests.app.killed_servers", str(tmp_path), str(ROUNDS)],
        cwd=ROOT,
        env=environment(),
        check=True,
        timeout=120,
    )
    durable, deleted, shades = {}, set(), {}
    for path in tmp_path.glob("said.*"):  # noqa: ASYNC240
        said = [json.loads(line) for line in path.read_text().splitlines()]
        [(*_, killed)] = [each for each in said if each[0] == "killed"]
        embedded = [(name, shade, at) for what, name, shade, at in said if what == "embed"]
        deleted |= {name for what, name, *_ in said if what == "delete"}
        shades |= {name: shade for name, shade, _ in embedded}
        # The last one may have been deleted by a server that was killed before it recorded that.
        durable |= {name: shade for name, shade, at in embedded[:-1] if at < killed - DURABLE_S}
    durable = {name: shade for name, shade in durable.items() if name not in deleted}
    assert len(durable) > 2 * ROUNDS
    assert deleted
    async with serving(settings(tmp_path)) as served:
        listed = (await served.client.get("/images", params={"limit": 1000})).json()["images"]
        held = {image["image_id"] for image in listed if "disk" in image["tiers"]}
        assert durable.keys() <= held
        assert deleted.isdisjoint(image["image_id"] for image in listed)
        for image_id in held & shades.keys():
            found = await served.service.find(image_id, tenant=ANYONE, times=StageTimes(), share=ANYONE)
            assert float(found.image_rows[0, 0]) == shades[image_id]
            assert (await served.click(image_id)).status_code == 200
        assert served.segmenter.encoded == []
    assert "Removing" not in caplog.text  # no file was torn
