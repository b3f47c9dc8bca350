"""A cluster of two fake Devices, one for each file of tests that asks for it (needs the extra `cluster`); haste."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.app.cluster.running_cluster import Cluster, wait_until
from tests.server import ROOT, environment


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start it, and end it after the last test."""
    folder = tmp_path_factory.mktemp("cluster")
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.app.cluster.fake_server", str(folder), "--devices", "cpu:2"],
            cwd=ROOT,
            env=environment(),
            stderr=output,
        )
    cluster = Cluster(process, folder)
    try:
        wait_until(lambda: "INFO    - Ready: fake" in cluster.log() or process.poll() is not None)
        address = re.search(r"Listening on (http://\S+);", cluster.log())
        assert address, cluster.log()
        cluster.url = address[1]
        yield cluster
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Front asks the next Device at once."""
    monkeypatch.setattr("app.cluster.asking._FIRST_PAUSE_S", 0)
