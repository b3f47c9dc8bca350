"""The command and API keys: a server without any logs a warning, and SIGHUP reloads their file."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from app import __main__ as command
from tests.app.command_here import serve_until
from tests.app.middleware.test_keys import ANNA, BERT, PAIRS, bearer, digest
from tests.app.server_process import ready
from tests.fakes import LONG_S, FakeSegmenter

pytestmark = pytest.mark.usefixtures("restored_process")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *(("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("192.0.2.7", False), ("sam2", False)),  # noqa: S104
    ],
)
def test_an_open_door_is_warned_of(
    host: str,
    local: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The start fails at the weights, which are missing."""
    monkeypatch.setattr(command, "bind", lambda *_: [])  # not all are addresses of this machine
    arguments = ["--host", host, "--checkpoint", str(tmp_path / "none.pt")]
    assert command.main(arguments) == 1
    assert ("without SAM2_API_KEYS" in capsys.readouterr().err) is not local
    assert command.main([*arguments, "--api-keys", PAIRS]) == 1
    assert "without SAM2_API_KEYS" not in capsys.readouterr().err


def test_a_signal_has_the_file_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("app.main.load_segmenter", lambda settings: FakeSegmenter())
    path = tmp_path / "keys"
    path.write_text(f"anna:{digest(ANNA)}\n")

    def story(url: str) -> None:
        assert ready(url)

        def status(key: str) -> int:
            return httpx.get(f"{url}/model", headers=bearer(key), trust_env=False).status_code

        assert (status(ANNA), status(BERT)) == (200, 401)
        path.write_text(f"bert:{digest(BERT)}\n")
        os.kill(os.getpid(), signal.SIGHUP)
        end = time.monotonic() + LONG_S
        while status(BERT) == 401 and time.monotonic() < end:
            time.sleep(0.01)
        assert (status(ANNA), status(BERT)) == (401, 200)

    code, log = serve_until(story, ["--api-keys", str(path)], capsys)
    assert code == 0
    assert "Reloaded the API keys: 1." in log
    assert ANNA not in log
    assert digest(BERT) not in log
