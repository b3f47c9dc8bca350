"""One Chromium for all tests of the page; each test has its own server and a fresh profile."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, sync_playwright
from starlette.types import ASGIApp, Receive, Scope, Send

from app.main import create_app
from app.settings import Settings
from tests.fakes import FakeSegmenter
from tests.page.scene import SCENE, answer
from tests.page.visitor import PATIENCE_S, Visitor
from tests.page.web_tools import WebTool

_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The first has no windows, so it opens a page in a third of the time of the others."""
FLAGS = [
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_NO_PREVIEW = (
    """if (!localStorage.getItem("sam2-options")) localStorage.setItem("sam2-options", '{"hover":false}')"""
)


class PageServer:
    """The whole service around a fake segmenter, on a port of 127.0.0.1, in a thread."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.port = 0
        self.settings = settings or Settings(workers=2)
        self.start()

    def start(self) -> None:
        """Start, or start again with empty storage."""
        self.segmenter = FakeSegmenter()
        self.received: list[str] = []
        app = self._noting(create_app(self.settings, self.segmenter))
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, log_level="error", timeout_graceful_shutdown=1)
        )
        # Bound from the start: another process could take a port that is chosen first and bound later.
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        end = time.monotonic() + PATIENCE_S
        while not self._ready():
            assert time.monotonic() < end
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop, like a server that is switched off."""
        self.segmenter.gate.set()
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)

    def prompts(self) -> list[tuple[tuple[int, ...], bool]]:
        """Return for every answered prompt: its labels, and whether it included the previous mask."""
        return [
            (prompt.labels, prompt.mask_logits is not None)
            for batch in self.segmenter.decoded
            for prompt in batch
        ]

    def forget(self) -> None:
        """Delete every picture."""
        with httpx.Client(base_url=self.url, trust_env=False, timeout=PATIENCE_S) as client:
            for image in client.get("images").json()["images"]:
                client.delete(f"images/{image['image_id']}")

    def _noting(self, app: ASGIApp) -> ASGIApp:
        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                self.received.append(scope["path"])
            await app(scope, receive, send)

        return noting

    def _ready(self) -> bool:
        if not self._server.started:
            return False
        return httpx.get(f"{self.url}readyz", trust_env=False, timeout=PATIENCE_S).is_success


def chromium() -> str | None:
    """Return where Chromium is, if it is installed."""
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Close the browser after the last test here, because its event loop would disturb other tests."""
    executable = chromium()
    if executable is None:
        reason = "The tests of the page need Chromium: apt-get install chromium-headless-shell"
        if os.environ.get("CI_TOOLS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def server() -> Iterator[PageServer]:
    """A server that answers clicks with discs."""
    server = PageServer()
    yield server
    server.stop()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A profile that has never opened the page, with previews switched off."""
    context = browser.new_context(viewport={"width": 1000, "height": 640})
    context.add_init_script(_NO_PREVIEW)
    yield context
    context.close()


@pytest.fixture
def open_page(context: BrowserContext) -> Iterator[Callable[[PageServer], Visitor]]:
    """Open the page of a server. At the end, check that no script failed and no other host got a request."""
    visitors: list[Visitor] = []

    def open_page(server: PageServer) -> Visitor:
        visitors.append(Visitor(context, server.url))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        assert visitor.faults == []
        assert [url for url in visitor.requests if not url.startswith((visitor.url, "blob:", "data:"))] == []


@pytest.fixture
def visitor(open_page: Callable[[PageServer], Visitor], server: PageServer) -> Visitor:
    """A visitor of the page of a server that answers clicks with discs."""
    return open_page(server)


@pytest.fixture(scope="package")
def lasting_server() -> Iterator[PageServer]:
    """A server for all tests of web tools: starting one takes longer than most of them."""
    server = PageServer()
    yield server
    server.stop()


@pytest.fixture
def tool_server(lasting_server: PageServer) -> Iterator[PageServer]:
    """A server that answers clicks with discs. It has no pictures, and no batches are recorded."""
    lasting_server.forget()
    lasting_server.segmenter.encoded.clear()
    lasting_server.segmenter.decoded.clear()
    yield lasting_server
    lasting_server.segmenter.gate.set()


@pytest.fixture(scope="package")
def lasting_context(browser: Browser) -> Iterator[BrowserContext]:
    """A profile for all tests of web tools."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def tool(lasting_context: BrowserContext, tool_server: PageServer) -> Iterator[WebTool]:
    """A web tool of that server, in a window of its own."""
    tool = WebTool(lasting_context, tool_server.url)
    yield tool
    tool.page.close()


@pytest.fixture
def answered(context: BrowserContext, server: PageServer) -> list[dict[str, object]]:
    """Answer every search with SCENE. Returns the bodies of the requests."""
    return answer(context, server.url, SCENE)
