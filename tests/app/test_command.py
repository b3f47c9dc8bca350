"""The command `sam2-serve`: its messages, the weights it loads, and its exit codes."""

import gc
import logging
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import onnx
import pytest

from app import __main__ as command
from app.listening import CannotListen, bind
from app.process import spare_what_stays
from app.service.loading import load_segmenter, locate_weights
from app.settings import HIDDEN, Settings
from tests.app.command_here import serve_until
from tests.app.server_process import ready
from tests.fakes import LONG_S, FakeSegmenter
from tests.server import ROOT

pytestmark = pytest.mark.usefixtures("restored_process")


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_studio_api_key", "geheim"),
        ("register_url", "mysql://user:geheim@host"),
        ("label_studio_url", "http://user:geheim@host"),
        ("cache_url", "s3://key:a/geheim@bucket"),
    ],
)
def test_a_secret_that_is_refused_is_not_shown(
    name: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SAM2_{name.upper()}", value)
    assert command.main([]) == 2
    said = capsys.readouterr()
    assert f"SAM2_{name.upper()}: " in said.err
    assert "geheim" not in said.err + said.out
    assert {each for each, field in Settings.model_fields.items() if "Secret" in repr(field)} == HIDDEN


def test_weights_that_are_missing_end_it_with_1_and_a_way_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM2_PRT", "8000")
    assert command.main(["--port", "0", "--checkpoint", str(tmp_path / "none.pt")]) == 1
    log = capsys.readouterr().err
    assert str(tmp_path / "none.pt") in log
    assert "SAM2_CHECKPOINT" in log
    assert "untrained" in log
    assert "SAM2_PRT is not a setting" in log

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        released = [
            "--port",
            "0",
            "--model",
            "sam2.1_hiera_tiny",
            "--weights-dir",
            str(tmp_path),
            "--weights-url",
            url,
        ]
        assert command.main(released) == 1
    log = capsys.readouterr().err
    assert str(tmp_path) in log
    assert url in log


def test_a_port_in_use_ends_it_with_1_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: Settings) -> None:
        raise AssertionError("weights are looked for")

    monkeypatch.setattr(command, "locate_weights", load)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert command.main(["--port", str(port)]) == 1
    log = capsys.readouterr().err
    assert f"SAM2_PORT={port}" in log
    assert "in use" in log
    assert "Stop what uses this port" in log
    for host in ("no such host", "a..b", "a" * 64, "192.0.2.1"):  # no machine has this address
        assert command.main(["--host", host]) == 1
        log = capsys.readouterr().err
        assert f"SAM2_HOST={host}" in log
        assert "Stop what uses this port" not in log
        assert "must be an address of this machine" in log


def test_a_port_that_another_server_takes_while_weights_come_ends_it_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two may bind a port until one of them listens. The other one ended in two tracebacks."""
    (other,) = bind("127.0.0.1", 0)
    with other:
        monkeypatch.setattr(command, "locate_weights", lambda _: other.listen())
        port = other.getsockname()[1]
        assert command.main(["--port", str(port)]) == 1
    log = capsys.readouterr().err
    assert f"Cannot listen on SAM2_HOST=127.0.0.1, SAM2_PORT={port}: Address already in use." in log
    assert "Traceback" not in log


def test_all_addresses_of_a_host_have_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{number}", 0)) for number in (1, 2, 2)]
    elsewhere = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))  # no machine has this address
    for addresses in (here, [elsewhere, *here]):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)  # noqa: B023
        bound = bind("both", 0)
        try:
            assert [each.getsockname()[0] for each in bound] == ["127.0.0.1", "127.0.0.2"]
            assert len({each.getsockname()[1] for each in bound}) == 1
        finally:
            for each in bound:
                each.close()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [elsewhere])
    with pytest.raises(CannotListen, match="assign"):
        bind("elsewhere", 0)


def test_a_signal_is_a_clean_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("app.main.load_segmenter", lambda settings: FakeSegmenter())
    spared = threading.Event()
    monkeypatch.setattr(command, "spare_what_stays", spared.set)

    def story(url: str) -> None:
        assert ready(url)
        assert spared.wait(LONG_S)
        os.kill(os.getpid(), signal.SIGHUP)  # it ended the process
        assert httpx.get(f"{url}/model", trust_env=False).json()["model"] == "fake"
        assert "server" not in httpx.get(f"{url}/healthz", trust_env=False).headers

    code, log = serve_until(story, [], capsys)
    assert code == 0
    assert " Ready" in log
    assert "SIGHUP has the file of SAM2_API_KEYS read again. It names none" in log
    assert re.search(r"INFO +[0-9a-f]{32} GET /model 200", log)


def test_a_model_that_cannot_be_loaded_ends_the_server_with_1(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(b"no checkpoint")
    arguments = ["--port", "0", "--checkpoint", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "app", *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "CRITICAL" in done.stderr
    assert str(path) in done.stderr


def test_an_application_that_cannot_start_ends_the_server_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was 3, Uvicorn's code for this and the watchdog's for a device that hangs."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no threads")

    monkeypatch.setattr(command, "locate_weights", lambda _: None)
    monkeypatch.setattr("app.main.LocalSegmentation", fail)
    assert command.main(["--port", "0"]) == 1
    assert "Application startup failed" in capsys.readouterr().err


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


@pytest.mark.parametrize("closed", [">&- 2>&-", "<&- >&- 2>&-", "2>&-", ""])
def test_no_socket_gets_the_number_of_a_closed_standard_stream(closed: str, tmp_path: Path) -> None:
    """As libuv ends the process when it closes one: the server ended with SIGABRT at a stop."""
    code = (
        "import pathlib, socket, sys; from app.process import hold_standard_streams as hold; hold(); "
        "sys.stderr.write('x'); "
        "sys.exit(socket.socket().fileno() <= 2 or (pathlib.Path(sys.argv[1]).touch()))"
    )
    done = tmp_path / "done"
    subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", code, str(done)], cwd=ROOT, check=True
    )
    assert done.exists()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keep_freed_memory changes only glibc")
def test_freed_memory_is_kept_for_the_next_picture() -> None:
    script = """
import resource, threading
from app.process import keep_freed_memory

def use_and_free():
    for size in (90, 20, 60):  # glibc knows 32 MiB as the largest block of its own pool
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
    assert int(done.stdout) < 1000  # 40,000 if every block is allocated from the system again


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keep_freed_memory changes only glibc")
def test_freed_memory_goes_back_when_nothing_is_to_be_done() -> None:
    script = """
from pathlib import Path
from app.process import keep_freed_memory, return_freed_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) // 256

keep_freed_memory()
block = bytearray(b"x") * (300 << 20)
del block
kept = resident_mib()
return_freed_memory()
print(kept, resident_mib())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    kept, returned = map(int, done.stdout.split())
    assert kept > 300
    assert returned < 150


def test_what_stays_is_spared_by_the_garbage_collection() -> None:
    stays: list[object] = []
    assert any(each is stays for each in gc.get_objects())
    spare_what_stays()
    assert not any(each is stays for each in gc.get_objects())


def test_sparing_what_stays_holds_no_event_loop_by_a_full_collection() -> None:
    generations: list[int] = []

    def note(phase: str, details: dict[str, int]) -> None:
        generations.append(details["generation"])

    gc.callbacks.append(note)
    try:
        spare_what_stays()
    finally:
        gc.callbacks.remove(note)
    assert set(generations) == {1}


def test_export_decoder_writes_the_decoder_of_the_settings_model(tmp_path: Path) -> None:
    output = tmp_path / "decoder.onnx"
    options = ["--checkpoint", "untrained", "--dtype", "bfloat16", "--device", "cpu"]
    assert command.main(["export-decoder", "--output", str(output), *options]) == 0
    said = {each.key: each.value for each in onnx.load(output).metadata_props}
    served = load_segmenter(Settings(checkpoint="untrained", dtype="bfloat16", device="cpu"))
    assert said["model"] == "builtin (untrained)" == served.name
    assert said["fingerprint"] == served.fingerprint
    assert said["image_size"] == "448"


def test_export_decoder_needs_a_file_and_good_settings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main(["export-decoder"])
    assert exit_.value.code == 2
    assert "--output" in capsys.readouterr().err
    assert command.main(["export-decoder", "--output", str(tmp_path / "a.onnx"), "--model", "sam3"]) == 2
    assert "SAM2_MODEL: " in capsys.readouterr().err
    assert command.main(["export-decoder", "--output", str(tmp_path / "a.onnx"), "--device", "tpu"]) == 2
    assert "SAM2_DEVICE: device 'tpu' cannot be used here: only auto, cpu, " in capsys.readouterr().err


def test_export_decoder_says_what_it_cannot_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--output", str(tmp_path / "a.onnx"), "--checkpoint", "absent.pt"]
    assert command.main(["export-decoder", *options]) == 1
    assert "SAM2_CHECKPOINT names absent.pt" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_export_decoder_names_the_extra_before_it_loads_anything(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    options = ["--model", "sam2.1_hiera_large", "--weights-url", "http://127.0.0.1:9"]
    assert command.main(["export-decoder", "--output", str(tmp_path / "a.onnx"), *options]) == 1
    # Not by the name of the package: an index may have another one of that name, or none.
    assert "pip install '.[onnx]'" in capsys.readouterr().err
