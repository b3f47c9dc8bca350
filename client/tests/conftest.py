"""Shared by the client's tests: async tests as in tests/conftest.py, a real server, no settings from outside."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from client_server import Served, real_server
from track_files import CLIP

from sam2_client import Client
from tests.conftest import _no_settings_from_outside, pytest_pyfunc_call  # noqa: F401  # found by name
from tests.fakes import picture


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with real_server() as served:
        yield served


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits before retries, which are shorter than asked for."""

    class Hurry:
        waited: ClassVar[list[float]] = []

        def sleep(self, seconds: float) -> None:
            self.waited.append(seconds)
            time.sleep(min(seconds, 0.02))

    Hurry.waited = []
    monkeypatch.setattr("sam2_client.client.time", Hurry())
    return Hurry.waited


@pytest.fixture
def truck(tmp_path: Path) -> Path:
    """A picture file of 60 x 40 pixels."""
    path = tmp_path / "truck.png"
    path.write_bytes(picture(60, 40))
    return path


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    served.trouble.replies.clear()
    served.trouble.asked.clear()
    with Client(served.url) as client:
        yield client


@pytest.fixture
def commanded(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test in its own folder, with the server's address in SAM2_URL."""
    served.trouble.replies.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM2_URL", served.url)


@pytest.fixture
def clip_file(commanded: None) -> None:
    """Run a test as `commanded`, with clip.mp4 in its folder."""
    Path("clip.mp4").write_bytes(CLIP)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for shade, name in enumerate(["a.png", "b.PNG", "more/c.png"]):
        (folder / name).write_bytes(picture(60 + shade, 40, shade=shade))
    (folder / "notes.txt").write_text("no picture")
    return folder
