"""What several files of tests share: a server of weights on this machine, asked in place of the real one."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from model.checkpoints import download
from model.checkpoints.download import RELEASES, Release
from tests.model.checkpoints.weights_server import FILE, SHA256, VARIANT, Web


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(RELEASES, VARIANT, Release("072824", FILE, SHA256))
    monkeypatch.setattr(download, "RETRY_WAITS_S", (0.0, 0.0, 0.0))
    web = Web()
    web.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # of clients that did not wait
                web.answer(self)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    server.shutdown()
    server.server_close()
    thread.join()
