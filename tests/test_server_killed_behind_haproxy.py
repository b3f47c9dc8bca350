"""Two servers behind HAProxy: one of them is killed under clicks, and no client notices."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from websockets.sync.client import connect

from tests.fakes import LONG_S, picture
from tests.haproxy import CLICK, balanced, program, wait_until
from tests.server import ROOT, environment, free_port

log = logging.getLogger(__name__)

_TWO_SERVERS = """
import os, sys, threading
from pathlib import Path
import app.__main__, app.main
from tests.app.cluster import fake_server
folder, ports = Path(sys.argv[1]), sys.argv[2:]
app.main.load_segmenter = fake_server.load
children = []
for port in ports:
    if (child := os.fork()) == 0:
        options = ["--checkpoint", "untrained", "--cache-dir", str(folder / "cache"), "--port", port]
        os._exit(app.__main__.main(options))
    children.append(child)
print(*children, flush=True)
sys.stdin.read()
for child in children:
    os.waitpid(child, 0)
"""


@dataclass
class Clicking:
    """Threads that click on pictures until told to stop."""

    url: str
    names: list[str]
    failures: list[str] = field(default_factory=list)
    clicks: int = 0
    cut: int = 0
    worst_s: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, first: int) -> None:
        """Click on one picture after the other."""
        with httpx.Client(base_url=self.url, trust_env=False, timeout=LONG_S) as client:
            while not self.stop.is_set():
                first += 1
                started = time.monotonic()
                click = CLICK | {"image_id": self.names[first % len(self.names)]}
                try:
                    reply = client.post("/decode", json=click)
                except httpx.RemoteProtocolError:
                    # HAProxy cannot ask again once the answer has begun: a client does, as sam2_client.
                    self.cut += 1
                    reply = client.post("/decode", json=click)
                self.worst_s = max(self.worst_s, time.monotonic() - started)
                if reply.status_code != 200:
                    self.failures.append(reply.text)
                self.clicks += 1


def children_that_answer(client: httpx.Client, seen: set[str]) -> int:
    """Ask once, and return how many servers have answered so far."""
    reply = client.get("/cluster")
    if reply.status_code == 200 and reply.json()["devices"][0]["ready"]:
        seen.add(reply.json()["fronts"][0]["pid"])
    return len(seen)


def hits(port: int, tier: str) -> int:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return sum(int(float(n)) for n in re.findall(rf'sam2_cache_hits_total{{tier="{tier}"}} (\S+)', text))


def test_kill_9_of_a_server_under_clicks(tmp_path: Path) -> None:
    program()  # without it the test is skipped, before servers are started
    ports = [free_port(), free_port()]
    with (tmp_path / "log").open("wb") as output:
        servers = subprocess.Popen(
            [sys.executable, "-c", _TWO_SERVERS, str(tmp_path), *map(str, ports)],
            cwd=ROOT,
            env=environment() | {"FORWARDED_ALLOW_IPS": "*"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    assert servers.stdout is not None
    children = [int(pid) for pid in servers.stdout.readline().split()]
    try:
        with balanced(tmp_path, ports) as url:
            names = [f"p{i}" for i in range(12)]
            with httpx.Client(base_url=url, trust_env=False, timeout=LONG_S) as client:
                seen: set[str] = set()
                wait_until(lambda: children_that_answer(client, seen) == 2)
                heads = {"Content-Type": "image/png"}
                for i, name in enumerate(names):
                    query = {"image_id": name}
                    reply = client.post("/embed", params=query, content=picture(shade=i), headers=heads)
                    assert reply.status_code == 200, reply.text
                # One after the other, so that no server is over its share of what runs at a time.
                for name in names:
                    assert client.post("/decode", json=CLICK | {"image_id": name}).status_code == 200
                assert [hits(port, "disk") for port in ports] == [0, 0]
                assert min(hits(port, "device") for port in ports) > 0
                lines = client.post(
                    "/everything", json={"image_id": "p0"}, headers={"Accept": "application/x-ndjson"}
                ).text.splitlines()
                assert "masks" in json.loads(lines[-1])
            with connect(url.replace("http", "ws") + "/decode/stream", proxy=None) as stream:
                for name in names:
                    stream.send(json.dumps(CLICK | {"image_id": name, "tag": 0}))
                    assert "predictions" in json.loads(stream.recv(timeout=LONG_S))
            wait_until(lambda: len(list((tmp_path / "cache").rglob("*.safetensors"))) == len(names))
            clicking = Clicking(url, names)
            threads = [threading.Thread(target=clicking.run, args=(3 * i,)) for i in range(4)]
            for thread in threads:
                thread.start()
            wait_until(lambda: clicking.clicks > 20)
            os.kill(children[0], signal.SIGKILL)
            before = clicking.clicks
            wait_until(lambda: clicking.clicks > before + 100)
            clicking.stop.set()
            for thread in threads:
                thread.join()
            log.info("%d clicks, the worst took %.2f s", clicking.clicks, clicking.worst_s)
            assert clicking.failures == []
            assert clicking.cut <= len(threads)  # what was under way
            assert (tmp_path / "encodes").read_text().count("\n") == len(names)
    finally:
        for child in children:
            # Also the one that was killed, which is there until its parent asks for it.
            os.kill(child, signal.SIGTERM)
        servers.communicate(timeout=LONG_S)
