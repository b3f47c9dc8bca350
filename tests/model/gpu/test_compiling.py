"""Machines that cannot compile are told so in one line, before minutes are lost."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from model.gpu import compiling
from tests.model.gpu.host_gpu import HostGpu
from tests.model.gpu.small_runners import OPTIONS, make_gpu_runner

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture(autouse=True)
def _looks_again() -> Iterator[None]:
    compiling.obstacle.cache_clear()
    yield
    compiling.obstacle.cache_clear()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled kernels go; a compiler is found."""
    monkeypatch.setattr(compiling, "_cache_folders", lambda: [tmp_path / "not" / "made yet"])
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "gcc" else None)
    return tmp_path


def test_nothing_is_in_the_way_on_a_usual_machine() -> None:
    assert compiling.obstacle() is None


def test_a_machine_without_a_compiler_is_told_once_and_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the image python:3.12-slim. Before, each of some thirty shapes failed after a trace of its own."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("model.gpu.encoding.compiled", None)
    monkeypatch.setattr("model.gpu.decoding.compiled", None)
    gpu = HostGpu()
    make_gpu_runner(gpu=gpu, options=replace(OPTIONS, compile="on")).warm_up()
    assert caplog.text.count("SAM2_COMPILE=on: nothing is compiled, because there is no C compiler") == 1
    assert gpu.clicks.captures > 1


def test_a_folder_without_exec_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /tmp of a container with a tmpfs there, unless it says `exec`."""
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC | os.ST_NOSUID))
    said = compiling.obstacle()
    assert said is not None
    assert said.startswith(str(folder))
    assert said.endswith("is on a file system that is mounted with noexec")


def test_a_folder_that_cannot_be_written_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert compiling.obstacle() == f"{folder / 'not' / 'made yet'} cannot be written"
