"""The command `sam2-serve`: what it says, how it ends, and how a real server treats its clients."""

import logging
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app import __main__ as command
from app.loading import load_segmenter, locate_weights
from app.settings import Settings
from tests.fakes import LONG_S, FakeSegmenter, error, picture

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _restore_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command sets up logging and signals for a process of its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    caught = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    chatty = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "uvicorn.error")}
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in chatty.items():
        logging.getLogger(name).setLevel(before)
    for number, handler in caught.items():
        signal.signal(number, handler)


def test_bad_settings_end_it_with_2_and_a_line_for_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM2_DEADLINE_S", "-1")
    assert command.main(["--port", "eighty", "--model", "sam3"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert any(line.startswith("SAM2_DEADLINE_S: ") and "got '-1'" in line for line in lines)
    assert any(line.startswith("SAM2_PORT: ") and "got 'eighty'" in line for line in lines)
    assert any(line.startswith("SAM2_MODEL: ") and "sam2.1_hiera_large" in line for line in lines)


def test_weights_that_are_missing_end_it_with_1_and_a_way_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM2_PRT", "8000")
    assert command.main(["--checkpoint", str(tmp_path / "none.pt")]) == 1
    log = capsys.readouterr().err
    assert str(tmp_path / "none.pt") in log
    assert "SAM2_CHECKPOINT" in log
    assert "untrained" in log
    assert "SAM2_PRT is no setting" in log

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        released = ["--model", "sam2.1_hiera_tiny", "--weights-dir", str(tmp_path), "--weights-url", url]
        assert command.main(released) == 1
    log = capsys.readouterr().err
    assert str(tmp_path) in log
    assert url in log


def serve_until(
    story: Callable[[str], None], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run the command here, tell `story` the address in a thread, then send SIGTERM; exit code and log."""
    log: list[str] = []
    failures: list[BaseException] = []

    def watch() -> None:
        try:
            end = time.monotonic() + LONG_S
            while time.monotonic() < end:
                log.append(capsys.readouterr().err)
                if found := re.search(r"Listening on (http://\S+);", "".join(log)):
                    story(found[1])
                    return
                time.sleep(0.01)
            raise TimeoutError("the server never listened")
        except BaseException as failure:
            failures.append(failure)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=watch)
    # Uvicorn catches the signal from here on; before it does, nothing but the log line starts the story.
    signal.signal(signal.SIGTERM, lambda *_: None)
    watcher.start()
    code = command.main(["--port", "0", "--checkpoint", "untrained", *arguments])
    watcher.join()
    if failures:
        raise failures[0]
    return code, "".join(log) + capsys.readouterr().err


def ready(url: str) -> bool:
    """Wait until the server has its model."""
    for _ in range(2000):
        response = httpx.get(f"{url}/readyz", trust_env=False)
        if response.is_success:
            return True
        time.sleep(0.01)
    raise TimeoutError(response.text)


def test_a_signal_is_a_clean_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("app.main.load_segmenter", lambda settings: FakeSegmenter())

    def story(url: str) -> None:
        assert ready(url)
        assert httpx.get(f"{url}/model", trust_env=False).json()["model"] == "fake"
        assert "server" not in httpx.get(f"{url}/healthz", trust_env=False).headers

    code, log = serve_until(story, [], capsys)
    assert code == 0
    assert " Ready" in log
    assert re.search(r"INFO +[0-9a-f]{32} GET /model 200", log)


def test_a_model_that_cannot_be_loaded_ends_the_server_with_1(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(b"no checkpoint")
    arguments = ["--port", "0", "--checkpoint", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "app", *arguments], capture_output=True, text=True, timeout=LONG_S
    )
    assert done.returncode == 1
    assert "CRITICAL" in done.stderr
    assert str(path) in done.stderr


def test_a_file_of_ones_own_is_taken_without_a_download(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.touch()
    assert locate_weights(Settings(checkpoint=str(path))) == path


def test_untrained_weights_are_loaded_on_demand(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = Settings(model="sam2.1_hiera_tiny", checkpoint="untrained", device="cpu", dtype="float32")
    assert locate_weights(settings) is None
    segmenter = load_segmenter(settings)
    assert segmenter.name == "sam2.1_hiera_tiny (untrained)"
    assert segmenter.mask_size == (256, 256)
    assert "random weights" in caplog.text


# A real server in a process of its own, with the fake in the model's place. It is held up while a file exists.

_SERVER = """
import sys, time, pathlib
import app.main, app.__main__
from tests.fakes import FakeSegmenter
hold = pathlib.Path(sys.argv[1])
def wait():
    hold.with_name("entered").touch()
    while hold.exists():
        time.sleep(0.005)
app.main.load_segmenter = lambda settings: FakeSegmenter(hold=wait)
sys.exit(app.__main__.main(["--checkpoint", "untrained", "--port", "0", "--max-upload-mib", "1", *sys.argv[2:]]))
"""


@dataclass
class RealServer:
    """A server process, and the file that holds its device."""

    process: "subprocess.Popen[bytes]"
    url: str
    hold: Path
    log: Path

    def client(self) -> httpx.Client:
        """A client with connections of its own."""
        return httpx.Client(base_url=self.url, trust_env=False, timeout=LONG_S)

    def wait_until_entered(self) -> None:
        """Until a batch has begun to run after the device was held."""
        self.wait_until(self.hold.with_name("entered").exists)

    def block(self) -> None:
        """Hold the next batch, and all after it."""
        self.hold.with_name("entered").unlink(missing_ok=True)
        self.hold.touch()

    def waiting(self, queue: str) -> int:
        """Prompts or images that wait, as /metrics says."""
        with self.client() as client:
            found = re.search(rf"^sam2_waiting_{queue} (\S+)", client.get("/metrics").text, re.MULTILINE)
        assert found
        return int(float(found[1]))

    @staticmethod
    def wait_until(holds: Callable[[], bool]) -> None:
        """Until something holds."""
        end = time.monotonic() + LONG_S
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.01)

    def memory_mib(self) -> float:
        """The most memory it has held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


@contextmanager
def real_server(folder: Path, *arguments: str) -> Iterator[RealServer]:
    """A server that is ready."""
    hold, log = folder / "hold", folder / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SAM2_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(hold), *arguments], cwd=ROOT, env=environment, stderr=output
        )
    try:
        RealServer.wait_until(lambda: b"Listening on" in log.read_bytes() or process.poll() is not None)
        found = re.search(r"Listening on (http://\S+);", log.read_text())
        assert found, log.read_text()
        assert ready(found[1])
        yield RealServer(process, found[1], hold, log)
    finally:
        hold.unlink(missing_ok=True)
        process.kill()
        process.wait()


CLICK = {"image_id": "truck", "point_coords": [[1, 1]], "point_labels": [1]}


def embed(client: httpx.Client, data: bytes, name: str) -> httpx.Response:
    """POST a picture as a raw body."""
    return client.post(
        "/embed", params={"image_id": name}, content=data, headers={"Content-Type": "image/png"}
    )


def test_a_real_server_under_clients_of_every_kind(tmp_path: Path) -> None:
    with real_server(tmp_path) as server, server.client() as client:
        assert embed(client, picture(), "truck").status_code == 200
        chunked_body_over_the_limit(server)
        body_over_the_limit_on_a_connection_that_lives_on(server)
        requests_in_one_packet(server)
        client_that_goes_away(server)
        stop_while_requests_wait(server)
        log = server.log.read_text()
        assert "never retrieved" not in log
        assert "Traceback" not in log


def chunked_body_over_the_limit(server: RealServer) -> None:
    """It is refused before its end, in bounded memory, and the next request works."""
    before = server.memory_mib()

    def body() -> Iterator[bytes]:
        for _ in range(400):
            yield bytes(2**20)

    with server.client() as client:
        try:
            response = embed(client, body(), "big")  # type: ignore[arg-type]
        except httpx.TransportError:
            pass  # a server may close the connection on who goes on sending
        else:
            assert error(response) == (413, "image_too_large")
    assert server.memory_mib() - before < 50
    with server.client() as client:
        assert client.post("/decode", json=CLICK).status_code == 200


def body_over_the_limit_on_a_connection_that_lives_on(server: RealServer) -> None:
    with server.client() as client:
        for _ in range(3):
            assert error(embed(client, bytes(3 * 2**20), "big")) == (413, "image_too_large")
            assert client.post("/decode", json=CLICK).status_code == 200


def requests_in_one_packet(server: RealServer) -> None:
    """Pipelined: watching for a client that goes away must not swallow its next request."""
    body = b'{"image_id": "truck", "box": [1, 2, 3, 4]}'
    request = b"POST /decode HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LONG_S) as connection:
        connection.sendall(request * 5)
        received = b""
        while received.count(b'"predictions"') < 5:
            piece = connection.recv(65536)
            assert piece, received
            received += piece
    assert received.count(b"HTTP/1.1 200 OK") == 5


def client_that_goes_away(server: RealServer) -> None:
    """Its place in the queue is another's; and /healthz answers while the device is held."""
    server.block()
    with server.client() as client, ThreadPoolExecutor(1) as threads:
        running = threads.submit(client.post, "/decode", json=CLICK)
        server.wait_until_entered()
        host, port = server.url.removeprefix("http://").split(":")
        body = b'{"image_id": "truck", "box": [1, 2, 3, 4]}'
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /decode HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            server.wait_until(lambda: server.waiting("prompts") == 1)
        server.wait_until(lambda: server.waiting("prompts") == 0)
        with server.client() as other:
            assert other.get("/healthz").status_code == 200
        server.hold.unlink()
        assert running.result().status_code == 200


def stop_while_requests_wait(server: RealServer) -> None:
    """Who waits is told at once, what runs is finished, and the exit is clean."""
    server.block()
    with server.client() as client, ThreadPoolExecutor(8) as threads:
        running = threads.submit(client.post, "/decode", json=CLICK)
        server.wait_until_entered()
        clicks = [threads.submit(client.post, "/decode", json=CLICK) for _ in range(2)]
        uploads = [threads.submit(embed, client, picture(shade=shade), f"p{shade}") for shade in (1, 2)]
        server.wait_until(lambda: server.waiting("prompts") == 2 and server.waiting("images") == 2)
        server.process.send_signal(signal.SIGTERM)
        for call in [*clicks, *uploads]:
            response = call.result()
            assert error(response) == (503, "shutting_down")
            assert int(response.headers["retry-after"]) >= 1
        assert not running.done()
        server.hold.unlink()
        assert running.result().status_code == 200
    assert server.process.wait(LONG_S) == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")
def test_freed_memory_is_kept_for_the_next_picture() -> None:
    script = """
import resource, threading
from app.__main__ import keep_freed_memory

def use_and_free():
    for size in (30, 20, 30):
        block = bytearray(size << 20)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

keep_freed_memory()
use_and_free()
before = faults()
thread = threading.Thread(target=lambda: [use_and_free() for _ in range(10)])
thread.start(); thread.join()
print(faults() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # 12,000 where every block comes anew from the system
