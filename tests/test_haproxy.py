"""deploy/haproxy/haproxy.cfg: what is a picture's id, and where requests go.

Needs Debian's haproxy, which .ci/run installs.
"""

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import yaml

from sam2_client.errors import BY_CODE
from tests.fakes import LONG_S
from tests.haproxy import CLICK, CONFIG, balanced, program, wait_until
from tests.server import ROOT


def test_haproxy_has_nothing_to_say_against_the_configuration() -> None:
    command = [program(), "-c", "-f", str(CONFIG)]
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


class Recorder(ThreadingHTTPServer):
    """Answers everything with 200, or as `status` says (0: not in HTTP), and records heads and bodies."""

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
        if recorder.status == 0 and self.path != "/readyz":
            self.wfile.write(b"no reply at all\r\n\r\n")
            self.close_connection = True
            return
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
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with ExitStack() as stack:
        recorders = [stack.enter_context(Recorder()) for _ in range(2)]
        threads = [threading.Thread(target=recorder.serve_forever) for recorder in recorders]
        for thread in threads:
            thread.start()
        ports = [recorder.server_port for recorder in recorders]
        folder = tmp_path_factory.mktemp("recorded")
        url = stack.enter_context(balanced(folder, ports))
        client = stack.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=LONG_S))
        yield Recorded(recorders, client)
        for recorder, thread in zip(recorders, threads, strict=True):
            recorder.shutdown()
            thread.join()


def test_what_haproxy_itself_says_has_the_form_of_all_errors(recorded: Recorded) -> None:
    said = dict(re.findall(r"http-error status (\d+) .* string '(.*?)'", CONFIG.read_text()))
    assert {json.loads(body)["error"]["code"] for body in said.values()} - BY_CODE.keys() == {"bad_gateway"}
    for recorder in recorded.recorders:
        recorder.status = 0
    try:
        reply = recorded.client.get("/model")
    finally:
        for recorder in recorded.recorders:
            recorder.status = 200
    assert (reply.status_code, reply.headers["Content-Type"]) == (502, "application/json")
    assert reply.json()["error"]["code"] == "bad_gateway"


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


def test_a_small_picture_or_form_that_a_server_refuses_goes_to_another_one(recorded: Recorded) -> None:
    """Clients send the body after the head, and HAProxy repeats only what it had in whole before it sent any."""
    recorded.recorders[0].status = 503
    try:
        for kind in ("image/jpeg", "multipart/form-data; boundary=b", "application/json"):
            for path in ("/embed", "/segment", "/a/door") * 3:
                with socket.create_connection(("127.0.0.1", recorded.client.base_url.port or 0)) as client:
                    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\n"
                    client.sendall(f"{head}Content-Length: 50000\r\n\r\n".encode())
                    time.sleep(0.02)
                    client.sendall(bytes(50_000))
                    assert client.recv(12) == b"HTTP/1.1 200", (path, kind)
    finally:
        recorded.recorders[0].status = 200


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
