"""Fixtures for tests of app/: a service here or on devices elsewhere, and a process where the command may run."""

import gc
import logging
import signal
from collections.abc import Iterator

import pytest

from tests import fakes


@pytest.fixture(params=["local", "remote"])
def either_service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test twice: with the service in this process, and with a Front before a fake device."""
    monkeypatch.setattr(fakes, "devices_are_elsewhere", request.param == "remote")


@pytest.fixture
def restored_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command sets up logging, signals and the garbage collection for its whole process; undo that."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    caught = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    chatty = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "uvicorn.error")}
    yield
    gc.unfreeze()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in chatty.items():
        logging.getLogger(name).setLevel(before)
    for number, handler in caught.items():
        signal.signal(number, handler)
