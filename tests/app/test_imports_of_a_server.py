"""The command `sam2-serve` while it imports, which takes seconds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import LONG_S
from tests.server import ROOT


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_it_imports_ends_it_in_silence(
    stop: signal.Signals, code: int, tmp_path: Path
) -> None:
    (tmp_path / "uvicorn.py").write_text("import time; print('here', flush=True); time.sleep(60)")
    variables = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with subprocess.Popen(
        [sys.executable, "-m", "app"], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGHUP)  # the keys are still to be read
        process.send_signal(stop)
        assert process.communicate(timeout=LONG_S) == (b"", b"")
    # Its own exit code, not the signal's: the first process of a container gets only signals with a handler.
    assert process.returncode == code


def test_a_folder_that_is_gone_ends_it_with_1_before_the_imports(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f'rmdir "$PWD"; exec {sys.executable} -m app'],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "The current folder was deleted. Start the server in one that exists.\n"
