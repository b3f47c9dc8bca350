"""Fixtures for tests of app/: a service here or on devices elsewhere, and a process where the command may run."""

import logging
import signal
import sys
from collections.abc import Iterator

import pytest

from tests import fakes


@pytest.fixture(params=["local", "remote"])
def either_service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test twice: with the service in this process, and with a Front before a fake device."""
    monkeypatch.setattr(fakes, "devices_are_elsewhere", request.param == "remote")


@pytest.fixture
def restored_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command sets up logging, signals and threads' turns for its whole process; undo that.

    It also takes what stays out of the garbage collection, which has no undo that leaves out what tests/conftest.py
    froze: each later test would look at all of it again, for half a second. So here it does not.
    """
    for name in ("app.process.spare_what_stays", "app.__main__.spare_what_stays"):
        monkeypatch.setattr(name, lambda: None)
    turn_s = sys.getswitchinterval()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    caught = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    chatty = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "uvicorn.error")}
    yield
    sys.setswitchinterval(turn_s)
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in chatty.items():
        logging.getLogger(name).setLevel(before)
    for number, handler in caught.items():
        signal.signal(number, handler)
