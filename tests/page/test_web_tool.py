"""Runs README's example for web tools in a page of another site."""

import base64
import io
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, expect

from app.settings import Settings
from tests.fakes import RADII, disc_mask
from tests.page.conftest import PageServer
from tests.server import ROOT

PAGE = b"<!doctype html><input type=file><img alt=mask>"
README = (ROOT / "README.md").read_text()


class Site(BaseHTTPRequestHandler):
    """Answers every GET with the page.

    It is on this machine, because Chromium asks the user before a page from elsewhere may call an address here.
    """

    def do_GET(self) -> None:
        """Send the page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    """The origin of the web tool's site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def open_server(site: str) -> Iterator[PageServer]:
    """A server that lets pages of this site call it, as in README."""
    assert "`SAM2_CORS_ORIGINS=http://localhost:5173 make serve`" in README
    server = PageServer(Settings(workers=2, cors_origins=site))
    yield server
    server.stop()


def test_a_page_of_another_site_embeds_clicks_and_shows_the_mask(
    context: BrowserContext, open_server: PageServer, site: str
) -> None:
    (code,) = re.findall(r"^```js\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    code = code.replace("http://127.0.0.1:8000", open_server.url.rstrip("/"))
    page = context.new_page()
    page.goto(site)
    page.locator("input").set_input_files(ROOT / "docs/hats.jpg")
    page.evaluate(f"async () => {{ {code} }}")
    expect(page.locator("img")).to_have_js_property("naturalWidth", 512)
    source = page.locator("img").get_attribute("src") or ""
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    assert np.array_equal(mask > 0, disc_mask(240, 144, RADII[2], height=341, width=512))
