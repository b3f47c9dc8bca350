"""What the page shows and does when something goes wrong."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Route

from app.settings import Settings
from tests.fakes import LONG_S, RADII, disc_mask, picture
from tests.page.conftest import PageServer
from tests.page.visitor import HEIGHT, WIDTH, Visitor

TRUCK = ("truck.png", picture(WIDTH, HEIGHT, shade=90))
SEEN = disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH)


def test_a_server_that_is_down_is_named_and_waited_for(visitor: Visitor, server: PageServer) -> None:
    visitor.add(TRUCK)
    server.stop()
    visitor.click(200, 150)
    visitor.until(lambda: "does not respond" in visitor.alert())
    assert visitor.url in visitor.alert()
    assert "Your work is kept" in visitor.alert()
    server.start()  # it no longer has the picture
    visitor.until_seen(SEEN)
    assert visitor.alert() == ""


def test_a_click_can_be_taken_back_while_the_server_is_down(visitor: Visitor, server: PageServer) -> None:
    visitor.add(TRUCK)
    server.stop()
    visitor.click(200, 150)
    visitor.until(lambda: "does not respond" in visitor.alert())
    visitor.press("z")
    visitor.until(lambda: visitor.alert() == "")


@pytest.fixture
def narrow_server() -> Iterator[PageServer]:
    """A server that lets one click wait and accepts only small pictures."""
    server = PageServer(Settings(workers=2, max_waiting_prompts=1, max_prompts=1, max_upload_mib=1))
    yield server
    server.stop()


def test_a_full_server_is_asked_again_when_it_says(
    open_page: Callable[[PageServer], Visitor], narrow_server: PageServer
) -> None:
    visitor = open_page(narrow_server)
    visitor.add(TRUCK)
    (image,) = httpx.get(f"{narrow_server.url}images", trust_env=False).json()["images"]
    body = {"image_id": image["image_id"], "point_coords": [[9, 9]], "point_labels": [1]}
    narrow_server.segmenter.gate.clear()
    with ThreadPoolExecutor(2) as others:
        answers = []
        for holds in (lambda: len(narrow_server.segmenter.decoded) == 1, lambda: _one_waits(narrow_server)):
            answers.append(
                others.submit(
                    httpx.post, f"{narrow_server.url}decode", json=body, timeout=LONG_S, trust_env=False
                )
            )
            visitor.until(holds)
        visitor.click(200, 150)
        visitor.until(lambda: "Trying again in" in visitor.alert())
        assert "Try now" in visitor.alert()
        narrow_server.segmenter.gate.set()
        visitor.until_seen(SEEN)
        assert visitor.alert() == ""
        assert all(answer.result().is_success for answer in answers)


def _one_waits(server: PageServer) -> bool:
    return "\nsam2_waiting_prompts 1.0\n" in httpx.get(f"{server.url}metrics", trust_env=False).text


def test_a_file_that_is_too_large_is_refused_with_the_limit(
    open_page: Callable[[PageServer], Visitor], narrow_server: PageServer
) -> None:
    visitor = open_page(narrow_server)
    noise = np.random.default_rng(0).integers(0, 255, 2**20 + 9, np.uint8).tobytes()
    visitor.add(("noise.png", picture(WIDTH, HEIGHT) + noise))
    visitor.until(
        lambda: "noise.png: The file has 1.0 MiB, but the server accepts at most 1 MiB." in visitor.alert()
    )
    visitor.find("#dismiss").click()
    assert visitor.alert() == ""


def test_a_forgotten_picture_is_uploaded_again_without_a_word(visitor: Visitor, server: PageServer) -> None:
    visitor.add(TRUCK)
    (image,) = httpx.get(f"{server.url}images", trust_env=False).json()["images"]
    httpx.delete(f"{server.url}images/{image['image_id']}", trust_env=False)
    alerts: list[str] = []
    visitor.click(200, 150)
    visitor.until(lambda: alerts.append(visitor.alert()) or visitor.sees(SEEN))
    assert set(alerts) == {""}
    assert len(server.segmenter.encoded) == 2


def test_a_model_that_breaks_is_quoted_and_can_be_tried_again(visitor: Visitor, server: PageServer) -> None:
    visitor.add(TRUCK)
    server.segmenter.fail_next = RuntimeError("out of memory")
    visitor.click(200, 150)
    visitor.until(lambda: "Try now" in visitor.alert())
    visitor.find("#retry").click()
    visitor.until_seen(SEEN)
    assert visitor.alert() == ""


def test_what_is_no_picture_is_refused_in_words(visitor: Visitor) -> None:
    visitor.find("#files").set_input_files(
        [{"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}]
    )
    visitor.until(lambda: "There is no picture" in visitor.alert())
    visitor.find("#files").set_input_files(
        [{"name": "broken.png", "mimeType": "image/png", "buffer": b"\x89PNG"}]
    )
    visitor.until(lambda: "broken.png: " in visitor.alert())
    visitor.find("#dismiss").click()
    visitor.find("#files").set_input_files(
        [
            {"name": "truck.png", "mimeType": "image/png", "buffer": TRUCK[1]},
            {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"},
        ]
    )
    visitor.until(lambda: "1 of 2 files are neither pictures nor videos" in visitor.alert())


def test_a_file_that_the_browser_cannot_show_is_told_once(visitor: Visitor) -> None:
    """It was decoded again after every failure, and its message came back each time."""
    visitor.page.evaluate(
        """() => {
          const decode = window.createImageBitmap;
          window.tries = 0;
          window.createImageBitmap = (file, ...rest) => (rest.length || window.tries++, decode(file, ...rest));
        }"""
    )
    visitor.add(TRUCK)
    tries = visitor.page.evaluate("tries")
    broken = [{"name": "broken.png", "mimeType": "image/png", "buffer": TRUCK[1][:60]}]
    visitor.find("#files").set_input_files(broken)
    visitor.find(".problem").wait_for()
    visitor.until(lambda: visitor.alert().startswith("broken.png: "))
    visitor.page.wait_for_timeout(300)
    assert visitor.page.evaluate("tries") == tries + 1
    visitor.find("#dismiss").click()
    visitor.find("#files").set_input_files(
        [{"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}]
    )
    visitor.until(lambda: "There is no picture" in visitor.alert())
    visitor.find("#dismiss").click()
    visitor.press("PageUp", "PageDown")  # whoever comes back to it is told why it is blank
    visitor.until(lambda: visitor.alert().startswith("broken.png: "))
    visitor.find("#dismiss").click()
    visitor.page.route("**/embed", lambda route: None)  # the server would say what is wrong
    visitor.find(".problem .open").click()
    visitor.until(lambda: visitor.alert().startswith("broken.png: "))
    assert "It is damaged, or" in visitor.alert()


def test_a_key_is_asked_for_and_sent_along(
    context: BrowserContext, open_page: Callable[[PageServer], Visitor], server: PageServer
) -> None:
    keys: list[str | None] = []

    def guard(route: Route) -> None:
        keys.append(route.request.headers.get("x-api-key"))
        if keys[-1] == "sesame":
            route.fallback()
        else:
            error = {"error": {"code": "unauthorized", "message": "This server asks for an API key."}}
            route.fulfill(status=401, body=json.dumps(error), content_type="application/json")

    for path in ("model", "embed", "decode"):
        context.route(f"{server.url}{path}", guard)
    page = context.new_page()
    page.goto(server.url)
    page.locator("#key").wait_for()
    assert "This server asks for an API key." in page.locator("#alert").inner_text()
    page.locator("#key").fill("wrong")
    page.locator("#key").press("Enter")
    while len(keys) < 2:
        page.wait_for_timeout(20)
    page.locator("#key").wait_for()
    page.locator("#key").fill("sesame")
    page.locator("#key").press("Enter")
    page.locator("#alert").wait_for(state="hidden")
    page.locator("#files").set_input_files([{"name": "a.png", "mimeType": "image/png", "buffer": TRUCK[1]}])
    page.locator("[aria-label='a.png, no objects']").wait_for()
    assert keys[:2] == [None, "wrong"]
    assert set(keys[2:]) == {"sesame"}
    assert page.evaluate(
        "[localStorage, sessionStorage].map((kept) => JSON.stringify(kept).includes('sesame'))"
    ) == [
        False,
        True,
    ]
