"""Devices that `serve deploy deploy/ray/sam2.yaml` starts, and two Fronts that joined: sam2-serve --cluster.

One cluster for all tests, in their order. Its Devices have no GPU and a fake model. Needs the extra `cluster`
(make test-cluster).
"""

import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.app.cluster.running_cluster import CLICK, START_S, hits, wait_until
from tests.fakes import picture
from tests.server import ROOT, environment, free_port

pytest.importorskip("ray", reason="the extra cluster is not installed; make test-cluster does")
pytestmark = pytest.mark.cluster

PICTURES = 12
SERVE = [sys.executable, "-c", "from ray.serve.scripts import cli; cli()"]


def variables(folder: Path, token: str, dashboard: int) -> dict[str, str]:
    """Return the environment of a node, with what deploy/ray/environment says."""
    said = (ROOT / "deploy/ray/environment").read_text()
    wanted = dict(re.findall(r"^(\w+)=(.*)$", said, re.MULTILINE))
    return (
        environment()
        | wanted
        | {
            "RAY_AUTH_TOKEN": token,
            "RAY_TMPDIR": str(folder),
            "RAY_raylet_start_wait_time_s": str(int(START_S)),
            "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard}",
            "PYTHONPATH": str(ROOT),
        }
    )


@dataclass
class Front:
    """A running `sam2-serve --cluster`."""

    process: "subprocess.Popen[bytes]"
    url: str


@dataclass
class Cluster:
    """A Ray with Devices, and the Fronts that joined it."""

    folder: Path
    node: dict[str, str]
    fronts: list[Front] = field(default_factory=list)

    def serve(self, *arguments: str) -> str:
        """Run Ray's command `serve`, and return what it says."""
        done = self.try_to_serve(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def try_to_serve(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Ray's command `serve`."""
        command = [*SERVE, *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.node, capture_output=True, text=True, check=False)

    def deploy(self, *, scaling: dict[str, float] | None = None, **settings: Any) -> None:
        """Deploy what is shipped, but with fake models on CPUs."""
        config = yaml.safe_load((ROOT / "deploy/ray/sam2.yaml").read_text())
        (application,) = config["applications"]
        (device,) = application["deployments"]
        application["import_path"] = "tests.app.cluster.fake_server:devices"
        application["args"] |= {"checkpoint": "untrained", "cache_dir": str(self.folder / "cache")} | settings
        device["ray_actor_options"]["num_gpus"] = 0
        device["autoscaling_config"] |= {"max_replicas": 2} | (scaling or {})
        (self.folder / "sam2.yaml").write_text(yaml.safe_dump(config))
        self.serve("deploy", str(self.folder / "sam2.yaml"))

    def encodes(self) -> int:
        """Return how many pictures were encoded so far."""
        return (self.folder / "encodes").read_text().count("\n")

    def devices(self, front: int = 0) -> dict[int, str]:
        """Return the process ids of the Devices that are ready, with the model of each."""
        found = httpx.get(f"{self.fronts[front].url}/cluster", trust_env=False).json()["devices"]
        return {each["pid"]: each["model"] for each in found if each["ready"]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("c")
    head, dashboard, agent = free_port(), free_port(), free_port()
    cluster = Cluster(folder, variables(folder, secrets.token_hex(32), dashboard))
    log = (folder / "log").open("wb")
    ray = subprocess.Popen(
        [
            *(
                sys.executable,
                "-c",
                "from ray.scripts.scripts import main; main()",
                "start",
                "--head",
                "--block",
            ),
            *("--node-ip-address=127.0.0.1", f"--port={head}", f"--dashboard-port={dashboard}"),
            *(f"--dashboard-agent-listen-port={agent}", "--num-cpus=2", "--num-gpus=0"),
            *("--object-store-memory=83886080", f"--temp-dir={folder / 'ray'}"),
        ],
        cwd=ROOT,
        env=cluster.node,
        stdout=log,
        stderr=log,
    )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{dashboard}/api/version") or ray.poll() is not None)
        # The head takes connections before it can do anything.
        wait_until(lambda: cluster.try_to_serve("status").returncode == 0 or ray.poll() is not None)
        assert ray.poll() is None, (folder / "log").read_text()
        cluster.deploy()
        for _ in range(2):
            port = free_port()
            command = [sys.executable, "-m", "app", "--cluster", "auto", "--port", str(port)]
            process = subprocess.Popen(command, cwd=ROOT, env=cluster.node, stderr=log)
            cluster.fronts.append(Front(process, f"http://127.0.0.1:{port}"))
        for front in cluster.fronts:
            wait_until(lambda front=front: answers(f"{front.url}/readyz"))  # type: ignore[misc]
        wait_until(lambda: all(len(cluster.devices(i)) == 2 for i in range(len(cluster.fronts))))
        yield cluster
    finally:
        for front in cluster.fronts:
            front.process.terminate()
            front.process.wait(60)
        ray.terminate()
        ray.wait(START_S)
        log.close()


def answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False).status_code in (200, 401)
    return False


@dataclass
class Clicking:
    """Clients that click until told to stop, and ask another Front if theirs is gone."""

    urls: list[str]
    failures: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    lost: int = 0
    worst_s: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Clicking":
        self.threads = [threading.Thread(target=self._run, args=(3 * i,)) for i in range(4)]
        for thread in self.threads:
            thread.start()
        wait_until(lambda: len(self.models) > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        logging.getLogger(__name__).info("%d clicks, the worst took %.2f s", len(self.models), self.worst_s)

    def _run(self, number: int) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self.stop.wait(0.02):  # so that Devices that start have a core too
                number += 1
                started = time.monotonic()
                self._click(client, number)
                self.worst_s = max(self.worst_s, time.monotonic() - started)

    def _click(self, client: httpx.Client, number: int) -> None:
        for attempt in range(10):
            url = self.urls[(number + attempt) % len(self.urls)]
            try:
                reply = client.post(f"{url}/decode", json=CLICK | {"image_id": f"p{number % PICTURES}"})
            except httpx.TransportError:
                self.lost += 1
                continue
            if reply.status_code == 200:
                self.models.append(reply.json()["model"])
            else:
                self.failures.append(reply.text)
            return
        self.failures.append("no Front")


def test_fronts_ask_the_same_device_for_a_picture(cluster: Cluster) -> None:
    headers = {"Content-Type": "image/png"}
    clients = [httpx.Client(base_url=front.url, trust_env=False, timeout=30) for front in cluster.fronts]
    for i in range(PICTURES):
        reply = clients[i % 2].post(
            "/embed", params={"image_id": f"p{i}"}, content=picture(shade=i), headers=headers
        )
        assert reply.status_code == 200, reply.text
    for client in clients:
        for i in range(PICTURES):
            assert client.post("/decode", json=CLICK | {"image_id": f"p{i}"}).status_code == 200
    assert (hits(clients[0], "device"), hits(clients[0], "disk")) == (2 * PICTURES, 0)
    assert cluster.encodes() == PICTURES
    assert cluster.devices(0) == cluster.devices(1)
    pids = {front.process.pid for front in cluster.fronts}
    for client in clients:
        wait_until(
            lambda client=client: {each["pid"] for each in client.get("/cluster").json()["fronts"]} == pids
        )
    for client in clients:
        client.close()


def test_kill_9_of_a_front_loses_nothing_that_a_client_asks_again(cluster: Cluster) -> None:
    encodes, devices = cluster.encodes(), cluster.devices()
    with Clicking([front.url for front in cluster.fronts]) as clicking:
        cluster.fronts[1].process.send_signal(signal.SIGKILL)
        cluster.fronts[1].process.wait(60)
        answered = len(clicking.models)
        wait_until(lambda: len(clicking.models) > answered + 50)
    assert clicking.failures == []
    assert clicking.lost > 0
    assert cluster.encodes() == encodes
    assert cluster.devices() == devices


def test_an_update_to_another_model_goes_on_under_clicks(cluster: Cluster) -> None:
    before, encodes = cluster.devices(), cluster.encodes()
    with Clicking([cluster.fronts[0].url]) as clicking:
        cluster.deploy(model="sam2.1_hiera_tiny")
        wait_until(lambda: len(cluster.devices()) == 2 and not before.keys() & cluster.devices().keys())
        answered = len(clicking.models)
        wait_until(lambda: len(clicking.models) > answered + 50)
    assert clicking.failures == []
    assert set(clicking.models) == {"fake sam2.1_hiera_large", "fake sam2.1_hiera_tiny"}
    assert set(clicking.models[-20:]) == {"fake sam2.1_hiera_tiny"}
    # From the uploads that are kept. While both models served, a picture may have been asked of two Devices of one.
    assert PICTURES <= cluster.encodes() - encodes <= 2 * PICTURES


def test_the_number_of_devices_follows_the_calls_under_way(cluster: Cluster) -> None:
    at_once = {"upscale_delay_s": 0, "downscale_delay_s": 0}
    before = cluster.devices()
    cluster.deploy(
        model="sam2.1_hiera_tiny", scaling={"min_replicas": 1, "target_ongoing_requests": 2} | at_once
    )
    wait_until(lambda: len(cluster.devices()) == 1)
    assert cluster.devices().keys() < before.keys()
    (cluster.folder / "slow").write_text("0.2")
    with Clicking([cluster.fronts[0].url]) as clicking:
        wait_until(lambda: len(cluster.devices()) == 2)
        (cluster.folder / "slow").unlink()
    assert clicking.failures == []


def test_devices_that_were_ended_and_deployed_anew_are_found(cluster: Cluster) -> None:
    before, ready = cluster.devices(), f"{cluster.fronts[0].url}/readyz"
    cluster.serve("shutdown", "--yes")
    wait_until(lambda: httpx.get(ready, trust_env=False).status_code == 503)
    cluster.deploy()
    wait_until(lambda: httpx.get(ready, trust_env=False).status_code == 200)
    wait_until(lambda: len(cluster.devices()) == 2)
    assert not before.keys() & cluster.devices().keys()
    with httpx.Client(base_url=cluster.fronts[0].url, trust_env=False, timeout=30) as client:
        assert client.post("/decode", json=CLICK | {"image_id": "p0"}).status_code == 200


def test_a_front_that_ends_leaves_the_devices(cluster: Cluster) -> None:
    devices = cluster.devices()
    cluster.fronts[0].process.send_signal(signal.SIGTERM)
    assert cluster.fronts[0].process.wait(60) == 0
    for pid in devices:
        os.kill(pid, 0)  # it is there
    status = yaml.safe_load(cluster.serve("status"))
    assert status["applications"]["sam2"]["deployments"]["Device"]["replica_states"] == {"RUNNING": 2}
