"""Runs the examples for web tools, of README, client/js/README.md and examples/, in a page of another site."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Route, expect
from pycocotools import mask as coco_mask

from app.settings import Settings
from tests.fakes import RADII, disc_mask, picture
from tests.page.conftest import PageServer
from tests.page.sites import site_with
from tests.server import ROOT

PAGE = b"<!doctype html><input type=file><img alt=mask>"
README = (ROOT / "README.md").read_text()
EXAMPLE = (ROOT / "examples/web-tool.html").read_text()
CLIENT_README = (ROOT / "client/js/README.md").read_text()
CLICK = (240, 144)
DISC = disc_mask(*CLICK, RADII[2], height=341, width=512)


@pytest.fixture
def page_of_the_site() -> list[bytes]:
    """What the web tool's site serves: the last of these."""
    return [PAGE]


@pytest.fixture
def site(page_of_the_site: list[bytes]) -> Iterator[str]:
    """The origin of the web tool's site."""
    with site_with(page_of_the_site) as origin:
        yield origin


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
    assert np.array_equal(mask > 0, DISC)


def test_the_example_page_draws_the_mask_of_decode_over_its_picture(
    context: BrowserContext, open_server: PageServer, site: str, page_of_the_site: list[bytes]
) -> None:
    assert len(EXAMPLE.splitlines()) <= 40
    assert EXAMPLE.count("http://127.0.0.1:8000") == 2
    page_of_the_site.append(EXAMPLE.replace("http://127.0.0.1:8000", open_server.url.rstrip("/")).encode())
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(site)
    page.locator("input").set_input_files(ROOT / "docs/hats.jpg")
    expect(page.locator("output")).to_have_text("Click on an object.")
    page.locator("canvas").click(position={"x": CLICK[0], "y": CLICK[1]})
    expect(page.locator("output")).to_have_text(re.compile("predicted IoU 1.00"))
    drawn = page.evaluate(
        """() => {
          const canvas = document.querySelector("canvas");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return [canvas.width, canvas.height, [...data].filter((_, at) => at % 4 === 3).join(" ")];
        }"""
    )
    width, height, opacities = drawn
    shown = np.array(opacities.split(), int).reshape(height, width) > 0
    (prompt,) = open_server.segmenter.decoded[0]
    (image,) = httpx.get(f"{open_server.url}images", trust_env=False).json()["images"]
    body = {"image_id": image["image_id"], "point_coords": prompt.points, "point_labels": [1]}
    reply = httpx.post(f"{open_server.url}decode", json=body, trust_env=False).json()
    rle = reply["predictions"][0]["masks"][0]["rle"]
    assert np.array_equal(shown, coco_mask.decode(rle).astype(bool))
    assert (shown != DISC).mean() < 0.01
    boxes = [page.locator(part).bounding_box() for part in ("img", "canvas")]
    assert boxes[0] == boxes[1], "the mask lies over the picture"
    assert faults == []


def test_the_example_page_keeps_the_picture_that_was_chosen_last(
    context: BrowserContext,
    open_server: PageServer,
    site: str,
    page_of_the_site: list[bytes],
    tmp_path: Path,
) -> None:
    page_of_the_site.append(EXAMPLE.replace("http://127.0.0.1:8000", open_server.url.rstrip("/")).encode())
    small = tmp_path / "small.png"
    small.write_bytes(picture(60, 40))
    held: list[Route] = []
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(site)
    choose = page.locator("input").set_input_files
    page.route("**/embed", lambda route: held.append(route), times=1)
    with page.expect_request("**/embed"):
        choose(small)
    choose(ROOT / "docs/hats.jpg")
    expect(page.locator("output")).to_have_text("Click on an object.")
    with page.expect_response("**/embed"):
        held[0].continue_()  # the first picture's reply comes last
    choose([])  # the dialog was cancelled
    page.locator("canvas").click(position={"x": CLICK[0], "y": CLICK[1]})
    expect(page.locator("output")).to_have_text(re.compile("predicted IoU 1.00"))
    assert page.locator("canvas").evaluate("(canvas) => [canvas.width, canvas.height]") == [512, 341]
    assert faults == []


def test_the_example_of_the_clients_own_readme_draws_the_mask(
    context: BrowserContext, open_server: PageServer, site: str, page_of_the_site: list[bytes]
) -> None:
    (code,) = re.findall(r"^```html\n(.*?)^```", CLIENT_README, re.MULTILINE | re.DOTALL)
    page_of_the_site.append(code.replace("http://127.0.0.1:8000", open_server.url.rstrip("/")).encode())
    page = context.new_page()
    page.goto(site)
    page.locator("input").set_input_files(ROOT / "docs/hats.jpg")
    expect(page.locator("canvas")).to_have_js_property("width", 512)
    painted = """() => [...document.querySelector("canvas").getContext("2d").getImageData(0, 0, 512, 341).data]
      .filter((_, at) => at % 4 === 3).join(" ")"""
    shown = np.array(page.evaluate(painted).split(), int).reshape(341, 512)
    assert np.array_equal(shown > 0, DISC)
    assert set(np.unique(shown)) == {0, 128}


def test_a_site_that_is_not_named_gets_no_client(
    context: BrowserContext, server: PageServer, site: str
) -> None:
    page = context.new_page()
    page.goto(site)
    outcome = "async (url) => import(`${url}client.js`).then(() => 'imported', (error) => error.name)"
    assert page.evaluate(outcome, server.url) == "TypeError"
