"""A server that is told to stop ends within its deadline, whatever its threads do, and sooner if told twice."""

import os
import signal
import threading
from pathlib import Path

import httpx
import pytest

from app import __main__ as command
from app.__main__ import make_server
from app.main import create_app
from app.settings import Settings
from tests.app.server_process import CLICK, embed, real_server
from tests.fakes import LONG_S, FakeSegmenter, picture


@pytest.mark.parametrize("is_early", [False, True], ids=["", "before Uvicorn listens for it"])
def test_the_process_ends_where_it_stands_when_the_time_is_over(
    is_early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), ended.set()))
    monkeypatch.setattr(command.logging, "shutdown", lambda: None)
    settings = Settings(workers=2, deadline_s=0.05)
    app = create_app(settings, FakeSegmenter())
    server = make_server(app, settings)
    for _ in range(2):  # a second Ctrl-C sets no second clock
        server.stop_soon() if is_early else server.handle_exit(signal.SIGINT, None)
    assert ended.wait(LONG_S)
    assert codes == [1]
    assert server.should_exit


@pytest.mark.usefixtures("restored_process")
@pytest.mark.parametrize("where", ["prepare_routes", "tune"])
def test_a_signal_that_comes_before_uvicorn_listens_for_it_counts(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was swallowed: a container that is stopped while it starts was killed after its grace period."""
    monkeypatch.setattr(command, where, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    helper = threading.Timer(LONG_S, os.kill, (os.getpid(), signal.SIGTERM))
    helper.start()
    try:
        assert command.main(["--port", "0", "--checkpoint", "untrained"]) == 0
        assert helper.is_alive()
    finally:
        helper.cancel()


@pytest.mark.usefixtures("restored_process")
@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_download(sig: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gives the first process of a container only signals that it has a handler for."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as for a first process
    monkeypatch.setattr(command, "locate_weights", lambda _: os.kill(os.getpid(), sig))
    with pytest.raises(SystemExit) as exit_:
        command.main(["--port", "0"])
    assert exit_.value.code == code


def test_a_second_ctrl_c_waits_for_no_request_and_keeps_what_was_promised(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with real_server(tmp_path, "--cache-dir", str(folder), "--deadline-s", "60") as server:
        with server.client() as client:
            assert embed(client, picture(), "truck").status_code == 200
        server.block()
        outcomes: list[object] = []

        def click() -> None:
            with server.client() as client:
                try:
                    outcomes.append(client.post("/decode", json=CLICK).status_code)
                except httpx.TransportError as error:
                    outcomes.append(error)

        clicking = threading.Thread(target=click)
        clicking.start()
        server.wait_until_entered()
        server.process.send_signal(signal.SIGINT)
        server.wait_until(lambda: b"Shutting" in server.log.read_bytes() or not _listens(server.url))
        server.process.send_signal(signal.SIGINT)
        server.hold.unlink()
        assert server.process.wait(LONG_S) == 0
        clicking.join()
        assert len(outcomes) == 1
        assert "Traceback" not in server.log.read_text()
    assert list(folder.glob("embeddings/*/*.safetensors"))


def _listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz", trust_env=False)
    except httpx.TransportError:
        return False
    return True
