"""A server that is told to stop ends within its deadline, whatever its threads do."""

import os
import signal
import threading

import pytest

from app import __main__ as command
from app.__main__ import make_server
from app.main import create_app
from app.settings import Settings
from tests.fakes import LONG_S, FakeSegmenter


def test_the_process_ends_where_it_stands_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), ended.set()))
    monkeypatch.setattr(command.logging, "shutdown", lambda: None)
    settings = Settings(workers=2, deadline_s=0.05)
    app = create_app(settings, FakeSegmenter())
    server = make_server(app, settings)
    app.state.service = type("Service", (), {"settings": settings})()
    for _ in range(2):  # a second Ctrl-C sets no second clock
        server.handle_exit(signal.SIGINT, None)
    assert ended.wait(LONG_S)
    assert codes == [1]
    assert server.should_exit
