"""Two Devices on a real Ray and a Front, started by the command: owners, large messages, kill -9, Ctrl-C.

One cluster for all tests, in their order: the last two kill. Needs the extra `cluster` (make test-cluster).
"""

import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import connect

from app.settings import Settings
from tests.app.cluster.running_cluster import CLICK, START_S, Cluster, descendants, hits, listed, wait_until
from tests.fakes import picture
from tests.server import ROOT, environment

pytest.importorskip("ray", reason="the extra cluster is not installed; make test-cluster does")
pytestmark = pytest.mark.cluster


def test_clicks_land_on_the_device_that_has_the_picture(cluster: Cluster) -> None:
    with cluster.client() as client:
        wait_until(lambda: listed(client) == 2)
        for i in range(16):
            query = {"image_id": f"p{i}"}
            reply = client.post(
                "/embed", params=query, content=picture(shade=i), headers={"Content-Type": "image/png"}
            )
            assert reply.status_code == 200, reply.text
        for i in range(16):
            assert client.post("/decode", json=CLICK | {"image_id": f"p{i}"}).status_code == 200
        assert (hits(client, "device"), hits(client, "disk")) == (16, 0)
        text = client.get("/metrics").text
        owned = [int(float(n)) for n in re.findall(r'lookups_total{device="\w+",outcome="miss"} (\S+)', text)]
        assert sum(owned) == 16
        assert all(owned)
        assert len(client.get("/images").json()["images"]) == 16
    assert cluster.encodes() == 16


def test_large_messages_lines_files_and_errors_come_through(cluster: Cluster) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (1500, 1200, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG", compress_level=0)
    assert len(file.getvalue()) > 5 * 2**20
    with cluster.client() as client:
        reply = client.post("/embed", files={"image": file.getvalue()}, data={"image_id": "large"})
        assert (reply.status_code, reply.json()["width"]) == (200, 1200)
        lines = client.post(
            "/everything",
            json={"image_id": "large", "points_per_side": 4},
            headers={"Accept": "application/x-ndjson"},
        ).text.splitlines()
        assert "progress" in json.loads(lines[0])
        assert "masks" in json.loads(lines[-1])
        export = client.get("/images/large/embedding").content
        assert set(np.load(io.BytesIO(export))) == {"image_embed", "high_res_feats_0", "high_res_feats_1"}
        assert client.delete("/images/large").status_code == 204
        reply = client.post("/decode", json=CLICK | {"image_id": "large"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "image_not_found")


def test_the_stream_has_pictures_of_all_devices(cluster: Cluster) -> None:
    url = cluster.url.replace("http", "ws") + "/decode/stream"
    with connect(url, proxy=None, max_size=None) as stream:
        for i in range(8):
            stream.send(json.dumps({"tag": i, "image_id": f"p{i}"} | CLICK))
            answer = json.loads(stream.recv(timeout=30))
            assert (answer["tag"], len(answer["predictions"])) == (i, 1)
        stream.send(json.dumps({"tag": "x", "image_id": "unknown"} | CLICK))
        assert json.loads(stream.recv(timeout=30))["error"]["code"] == "image_not_found"


def test_who_leaves_frees_the_device(cluster: Cluster) -> None:
    hold = cluster.folder / "hold"
    hold.touch()
    try:
        with cluster.client() as client, suppress(httpx.ReadTimeout):
            client.post("/decode", json=CLICK | {"image_id": "p0"}, timeout=0.5)  # runs
        with cluster.client() as client:
            with suppress(httpx.ReadTimeout):
                client.post("/decode", json=CLICK | {"image_id": "p0"}, timeout=0.5)  # waits behind it
            waiting = re.compile(r"sam2_waiting_prompts{device=\S+ ([1-9]\S*)")
            wait_until(lambda: not waiting.search(client.get("/metrics").text), 10)
    finally:
        hold.unlink()


def test_a_device_that_hangs_hides_no_other_one(cluster: Cluster) -> None:
    hanging = min(cluster.replicas())
    with cluster.client() as client:
        os.kill(hanging, signal.SIGSTOP)
        try:
            wait_until(lambda: listed(client) < 2, 30)
            devices = client.get("/cluster").json()["devices"]
            named = set(re.findall(r'sam2_waiting_prompts{device="(\w+)"', client.get("/metrics").text))
        finally:
            os.kill(hanging, signal.SIGCONT)
        assert {each["id"] for each in devices} == named
        assert [each["pid"] for each in devices] == list(cluster.replicas() - {hanging})
        wait_until(lambda: listed(client) == 2)


def batches(client: httpx.Client) -> dict[str, float]:
    """Return how many batches of prompts each device has run."""
    text = client.get("/metrics").text
    found = re.findall(r'sam2_batch_size_count{device="(\w+)",queue="decode"} (\S+)', text)
    return {device: float(number) for device, number in found}


def test_clicks_that_are_too_many_for_the_owner_go_to_its_successor(cluster: Cluster) -> None:
    encodes = cluster.encodes()
    (cluster.folder / "slow").write_text("0.1")
    with cluster.client() as client:
        before = batches(client)

        def click() -> None:
            for _ in range(3):
                assert client.post("/decode", json=CLICK | {"image_id": "p0"}).status_code == 200

        with ThreadPoolExecutor(12) as clients:
            for done in [clients.submit(click) for _ in range(12)]:
                done.result()
        after = batches(client)
    (cluster.folder / "slow").unlink()
    assert len(before) == 2
    assert all(after[device] > before[device] for device in before)
    assert cluster.encodes() == encodes


def listening(pid: int) -> Iterator[tuple[str, int]]:
    """Yield the addresses and ports on which a process listens."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in inodes:
                address, port = local.split(":")
                yield address, int(port, 16)


def says_hello(port: int) -> bool:
    """Whether a Device answers calls on a port."""
    with socket.create_connection(("127.0.0.1", port)) as connection, suppress(TimeoutError):
        connection.settimeout(1)
        return connection.recv(7) == b"SAM2/1\n"
    return False


def test_nothing_of_ray_is_seen_from_other_machines_and_a_token_is_asked_for(cluster: Cluster) -> None:
    import grpc

    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    ports = {}
    for pid in (cluster.process.pid, *descendants(cluster.process.pid)):
        for address, port in listening(pid):
            assert address in loopback
            ports[port] = pid
    replica = min(cluster.replicas())
    open_ports = [port for port, pid in ports.items() if pid == replica]
    (listener,) = filter(says_hello, open_ports)
    with socket.create_connection(("127.0.0.1", listener)) as connection:
        connection.settimeout(10)
        connection.sendall(b"SAM2/1\n" + bytes(32) + bytes(32))
        said = b"".join(iter(lambda: connection.recv(4096), b""))
        assert len(said) == 7 + 32 + 32  # and then it has closed
    for port in open_ports:
        if port == listener:
            continue
        refusals = set()
        for method in ("ray.serve.ASGIService/HandleRequest", "ray.rpc.CoreWorkerService/PushTask"):
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                with pytest.raises(grpc.RpcError) as error:
                    channel.unary_unary(f"/{method}")(b"", timeout=10)
                refusals.add(error.value.code())
        assert grpc.StatusCode.UNAUTHENTICATED in refusals, (port, refusals)
    with socket.create_connection(("127.0.0.1", min(ports))):
        pass  # the ports are real ones


def test_kill_9_of_a_device_under_load_costs_no_error_and_no_encode(cluster: Cluster) -> None:
    encodes, replicas = cluster.encodes(), cluster.replicas()
    assert len(replicas) == 2
    (cluster.folder / "slow").write_text("0.1")  # so that some clicks are with the device when it dies
    failures: list[str] = []
    slowest, stop, answered = [0.0], threading.Event(), [0]

    def click(first: int) -> None:
        with cluster.client() as client:
            i = first
            while not stop.is_set():
                started = time.monotonic()
                reply = client.post("/decode", json=CLICK | {"image_id": f"p{i % 16}"})
                slowest[0] = max(slowest[0], time.monotonic() - started)
                if reply.status_code != 200:
                    failures.append(reply.text)
                answered[0] += 1
                i += 1

    threads = [threading.Thread(target=click, args=(2 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    with cluster.client() as client:
        wait_until(lambda: answered[0] >= 40)  # all threads click, and so some clicks are with each device
        os.kill(min(replicas), signal.SIGKILL)
        wait_until(lambda: len(cluster.replicas() - replicas) == 1)
        wait_until(lambda: listed(client) == 2)
        time.sleep(0.5)
        stop.set()
        for thread in threads:
            thread.join()
        again = re.search(r"^sam2_asked_again_total (\S+)", client.get("/metrics").text, re.MULTILINE)
    (cluster.folder / "slow").unlink()
    logging.getLogger(__name__).info("The worst click took %.2f s; asked again: %s", slowest[0], again)
    assert again is not None
    assert float(again[1]) > 0
    assert failures == []
    assert cluster.encodes() == encodes


_SLOW_RAY = """
import sys
import ray
def init(**_):
    raise Exception("The current node timed out during startup.")
ray.init = init
from app.__main__ import main
sys.exit(main(["--devices", "cpu:2", "--port", "0", "--checkpoint", "untrained"]))
"""


def test_a_ray_that_does_not_start_is_said_in_words() -> None:
    command = [sys.executable, "-c", _SLOW_RAY]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=START_S
    )
    assert done.returncode == 1
    assert "Ray does not start on this machine: The current node timed out" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, when it is imported
def test_a_ray_that_does_not_end_the_devices_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where it was told to stop together with the command: by systemd, say."""
    from app.cluster import one_machine  # here, because it needs Ray

    never, ended = threading.Event(), list[object]()
    monkeypatch.setattr(one_machine, "_WRITING_S", 0.01)
    monkeypatch.setattr(one_machine.serve, "delete", lambda _: never.wait())
    monkeypatch.setattr(one_machine, "_end_descendants", lambda: ended.append("descendants"))
    monkeypatch.setattr(one_machine.ray, "shutdown", lambda: None)
    monkeypatch.setattr(one_machine.os, "_exit", ended.append)
    machine = one_machine.OneMachine(Settings(devices="cpu:2"))
    machine._folder, machine._is_running = tmp_path / "folder", True
    machine._folder.mkdir()
    machine._end()
    never.set()
    assert ended[:2] == ["descendants", 1]
    assert not machine._folder.exists()


def test_ctrl_c_leaves_no_process_and_keeps_what_was_promised(cluster: Cluster) -> None:
    with cluster.client() as client:
        headers = {"Content-Type": "image/png"}
        last = client.post(
            "/embed", params={"image_id": "last"}, content=picture(90, shade=200), headers=headers
        )
        assert last.status_code == 200
    below = descendants(cluster.process.pid)
    assert len(below) > 5
    cluster.process.send_signal(signal.SIGINT)
    assert cluster.process.wait(60) == 0, cluster.log()
    assert [name for pid, name in below.items() if Path(f"/proc/{pid}").exists()] == []
    assert "Traceback" not in cluster.log()
    assert len(list((cluster.folder / "cache").rglob("*.safetensors"))) == 16 + 1
