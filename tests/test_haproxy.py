"""deploy/haproxy/haproxy.cfg: what is a picture's id, where requests go, and that a server may die under clicks.

Needs Debian's haproxy, which .ci/run installs.
"""

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml
from websockets.sync.client import connect

from tests.fakes import LONG_S, picture
from tests.server import ROOT, environment, free_port

log = logging.getLogger(__name__)

CONFIG = ROOT / "deploy/haproxy/haproxy.cfg"
CLICK = {"point_coords": [[30, 20]], "point_labels": [1]}


@pytest.fixture(scope="module")
def haproxy() -> str:
    """The program."""
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None and os.environ.get("CI_TOOLS") == "required":
        pytest.fail("haproxy is not installed: apt-get install haproxy")
    if found is None:
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    return found


def test_haproxy_has_nothing_to_say_against_the_configuration(haproxy: str) -> None:
    command = [haproxy, "-c", "-f", str(CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG_S)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "could not resolve address 'sam2-" not in line]
    assert not [line for line in said if "WARNING" in line or "ALERT" in line]


def test_nothing_of_haproxy_itself_is_served() -> None:
    text = CONFIG.read_text()
    assert "stats" not in text
    assert re.findall(r"^ +bind (.*)$", text, re.MULTILINE) == [":8000"]


def test_every_backend_has_every_server_of_compose_with_a_fixed_place_on_the_ring() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    named = [
        name
        for name, service in compose["services"].items()
        if "many" in service.get("profiles", []) and "build" in service
    ]
    backends = re.split(r"^backend ", CONFIG.read_text(), flags=re.MULTILINE)[1:]
    assert len(backends) == 3
    for backend in backends:
        lines = re.findall(
            r"^ +server (\S+) (\S+):8000 id (\d+)(?: track pictures/(\S+))?$", backend, re.MULTILINE
        )
        assert [host for _, host, _, _ in lines] == named
        assert [int(number) for _, _, number, _ in lines] == list(range(1, len(named) + 1))
        assert all(tracked in ("", name) for name, _, _, tracked in lines)


@contextmanager
def balanced(haproxy: str, folder: Path, ports: list[int]) -> Iterator[str]:
    """Yield the address of HAProxy before servers on these ports."""
    own = free_port()
    text = CONFIG.read_text().replace("bind :8000", f"bind 127.0.0.1:{own}")
    for number, port in enumerate(ports):
        text = text.replace(f"sam2-{number}:8000", f"127.0.0.1:{port}")
    (folder / "haproxy.cfg").write_text(text)
    with (folder / "haproxy.log").open("wb") as output:
        process = subprocess.Popen(
            [haproxy, "-db", "-f", str(folder / "haproxy.cfg")], stdout=output, stderr=output
        )
    try:
        wait_until(lambda: answers(own) or process.poll() is not None)
        assert process.poll() is None, (folder / "haproxy.log").read_text()
        yield f"http://127.0.0.1:{own}"
    finally:
        process.terminate()
        process.wait(LONG_S)


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 3 * LONG_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


class Recorder(ThreadingHTTPServer):
    """Answers everything with 200, or as `status` says, and records heads and bodies."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], int]] = []
        self.status = 200
        self.gate = threading.Event()
        """Requests wait until it is set."""
        self.gate.set()
        super().__init__(("127.0.0.1", 0), _Recording)


class _Recording(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        recorder = self.server
        assert isinstance(recorder, Recorder)
        size = len(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        if self.path != "/readyz":
            recorder.seen.append((self.path, dict(self.headers), size))
            recorder.gate.wait(LONG_S)
        self.send_response(200 if self.path == "/readyz" else recorder.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815
    do_DELETE = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@dataclass
class Recorded:
    """Two recorders behind HAProxy."""

    recorders: list[Recorder]
    client: httpx.Client

    def sent(self, method: str, path: str, **rest: object) -> tuple[int, dict[str, str]]:
        """Send a request. Return the recorder that got it, and the heads that it saw."""
        before = [len(recorder.seen) for recorder in self.recorders]
        self.client.request(method, path, **rest)  # type: ignore[arg-type]
        (number,) = [i for i, recorder in enumerate(self.recorders) if len(recorder.seen) > before[i]]
        return number, {name.lower(): value for name, value in self.recorders[number].seen[-1][1].items()}


@pytest.fixture(scope="module")
def recorded(haproxy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with ExitStack() as stack:
        recorders = [stack.enter_context(Recorder()) for _ in range(2)]
        threads = [threading.Thread(target=recorder.serve_forever) for recorder in recorders]
        for thread in threads:
            thread.start()
        ports = [recorder.server_port for recorder in recorders]
        folder = tmp_path_factory.mktemp("recorded")
        url = stack.enter_context(balanced(haproxy, folder, ports))
        client = stack.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=LONG_S))
        yield Recorded(recorders, client)
        for recorder, thread in zip(recorders, threads, strict=True):
            recorder.shutdown()
            thread.join()


def test_whatever_names_a_picture_goes_to_one_server(recorded: Recorded) -> None:
    chosen = set()
    for number in range(12):
        name = f"lot:7.{number}"
        prompt = CLICK | {"image_id": name}
        quoted = name.replace(":", "%3A")
        requests: list[tuple[str, str, dict[str, object]]] = [
            ("POST", "/decode", {"json": prompt}),
            ("POST", "/decode", {"content": json.dumps(prompt)}),  # as curl -d sends it, by another type
            ("POST", "/everything", {"json": {"image_id": name}}),
            ("POST", "/embed", {"params": {"image_id": name}, "content": bytes(300_000)}),
            ("POST", "/embed", {"json": {"image_id": name, "image": "A" * 200_000}}),
            ("POST", f"/segment?image_id={quoted}", {"content": b"x"}),
            ("GET", f"/images/{quoted}", {}),
            ("GET", f"/images/{quoted}/embedding", {}),
            ("DELETE", f"/images/{name}", {}),
        ]
        found = [recorded.sent(method, path, **rest) for method, path, rest in requests]
        assert {heads["x-image-id"] for _, heads in found} == {name}
        (one,) = {server for server, _ in found}
        chosen.add(one)
    assert chosen == {0, 1}


def test_what_has_no_id_in_sight_is_balanced(recorded: Recorded) -> None:
    form = {"files": {"image": bytes(100)}, "data": {"image_id": "in-a-form"}}
    found = [recorded.sent("POST", "/embed", **form) for _ in range(8)]
    found += [
        recorded.sent("POST", "/decode", json={"prompts": []}, headers={"X-Image-Id": "forged"})
        for _ in range(8)
    ]
    assert {server for server, _ in found} == {0, 1}
    assert not any("x-image-id" in heads for _, heads in found)


def test_a_server_with_more_than_its_part_gives_to_the_other_one(recorded: Recorded) -> None:
    before = [len(recorder.seen) for recorder in recorded.recorders]

    def got() -> list[int]:
        return [len(recorder.seen) - had for recorder, had in zip(recorded.recorders, before, strict=True)]

    for recorder in recorded.recorders:
        recorder.gate.clear()
    threads = [
        threading.Thread(target=recorded.client.post, args=("/decode",), kwargs={"json": {"image_id": "hot"}})
        for _ in range(12)
    ]
    try:
        for thread in threads:
            thread.start()
        wait_until(lambda: sum(got()) == len(threads))
    finally:
        for recorder in recorded.recorders:
            recorder.gate.set()
        for thread in threads:
            thread.join()
    assert min(got()) >= 4  # of 12, the owner has 8 at most


def test_a_long_body_is_read_for_its_id_as_far_as_it_fits(recorded: Recorded) -> None:
    mask = {"mask_input": "A" * 350_000}
    _, heads = recorded.sent("POST", "/decode", json={"image_id": "p"} | mask)
    assert heads["x-image-id"] == "p"
    _, heads = recorded.sent("POST", "/decode", json=mask | {"image_id": "p"})
    assert "x-image-id" not in heads


def test_videos_and_tracks_of_a_caller_go_to_one_server(recorded: Recorded) -> None:
    chosen = set()
    for number in range(12):
        key = {"Authorization": f"Bearer {number}"}
        paths = ["/videos", "/tracks", f"/tracks/t{number}/prompts", "/propagate"]
        found = [recorded.sent("POST", path, headers=key, json={}) for path in paths]
        (one,) = {server for server, _ in found}
        chosen.add(one)
        assert not any("Bearer" in heads["x-caller"] for _, heads in found)  # a key stays where it was sent
    assert chosen == {0, 1}
    assert len({recorded.sent("GET", f"/tracks/t{number}")[0] for number in range(8)}) == 1  # by its address


def test_servers_are_told_the_address_of_the_client_and_no_other(recorded: Recorded) -> None:
    _, heads = recorded.sent("GET", "/model", headers={"X-Forwarded-For": "203.0.113.7"})
    assert heads["x-forwarded-for"] == "127.0.0.1"


def test_a_click_that_a_server_refuses_goes_to_another_one_and_one_on_a_track_does_not(
    recorded: Recorded,
) -> None:
    def asked(path: str) -> int:
        before = sum(len(recorder.seen) for recorder in recorded.recorders)
        reply = recorded.client.post(path, json={"image_id": "p"})
        statuses.append(reply.status_code)
        return sum(len(recorder.seen) for recorder in recorded.recorders) - before

    statuses: list[int] = []
    owner, _ = recorded.sent("POST", "/decode", json={"image_id": "p"})
    recorded.recorders[owner].status = 503
    try:
        assert asked("/decode") == 2
        recorded.recorders[1 - owner].status = 503
        assert asked("/tracks/t/prompts") == 1
    finally:
        for recorder in recorded.recorders:
            recorder.status = 200
    assert statuses == [200, 503]


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
    worst_s: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, first: int) -> None:
        """Click on one picture after the other."""
        with httpx.Client(base_url=self.url, trust_env=False, timeout=LONG_S) as client:
            while not self.stop.is_set():
                first += 1
                started = time.monotonic()
                reply = client.post("/decode", json=CLICK | {"image_id": self.names[first % len(self.names)]})
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


def test_kill_9_of_a_server_under_clicks(haproxy: str, tmp_path: Path) -> None:
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
        with balanced(haproxy, tmp_path, ports) as url:
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
            assert (tmp_path / "encodes").read_text().count("\n") == len(names)
    finally:
        for child in children:
            os.kill(
                child, signal.SIGTERM
            )  # the one that was killed is still there, until its parent asks for it
        servers.communicate(timeout=LONG_S)
