"""What the strip over the picture says while a request waits for its user: nothing else takes its way out away."""

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Route

from tests.fakes import picture
from tests.page.conftest import PageServer
from tests.page.scene import CAT, TRUCK
from tests.page.visitor import Visitor
from tests.page.watcher import Watcher


def refusal(status: int, message: str) -> Callable[[Route], None]:
    body = json.dumps({"error": {"code": "none", "message": message}})
    return lambda route: route.fulfill(status=status, body=body, content_type="application/json")


def choose(visitor: Visitor, file: tuple[str, bytes]) -> None:
    visitor.find("#files").set_input_files([{"name": file[0], "mimeType": "image/png", "buffer": file[1]}])


@pytest.fixture
def waiting(visitor: Visitor, context: BrowserContext, server: PageServer) -> Visitor:
    """A visitor whose upload has broken the server, and waits for a word."""
    context.route(f"{server.url}embed", refusal(500, "The model broke."))
    choose(visitor, TRUCK)
    visitor.until(lambda: "Try now" in visitor.alert())
    return visitor


def test_a_message_goes_before_a_wait_and_gives_its_button_back(
    waiting: Visitor, context: BrowserContext, server: PageServer
) -> None:
    waiting.press("e")
    waiting.until(lambda: "nothing to export" in waiting.alert())
    waiting.find("#dismiss").click()
    assert waiting.alert().startswith("The model broke.")
    context.unroute(f"{server.url}embed")
    waiting.find("#retry").click()
    waiting.until_ready()
    assert waiting.alert() == ""


def test_a_wait_that_ends_shows_the_one_before(
    waiting: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """Of two, the one that was shown last took the button of the other along."""
    context.unroute(f"{server.url}embed")
    waiting.find("#retry").click()
    waiting.until_ready()
    context.route(f"{server.url}embed", refusal(500, "The model broke."))
    choose(waiting, CAT)
    waiting.until(lambda: "broke" in waiting.alert())
    waiting.press("PageUp")
    context.route(f"{server.url}decode", refusal(500, "The decoder broke."))
    waiting.click(200, 150)
    waiting.until(lambda: "decoder broke" in waiting.alert())
    waiting.press("z")
    waiting.until(lambda: "model broke" in waiting.alert())
    assert "Try now" in waiting.alert()


HURRY = """() => {
  const set = setTimeout;
  window.setTimeout = (task, ms, ...rest) => set(task, ms === 1000 ? 50 : ms, ...rest);
}"""
"""Seconds pass in 50 ms."""


def test_a_message_is_gone_once_the_next_try_is_at_work(
    waiting: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """It said that the server does not respond until all was sent or tracked, which may take minutes."""
    context.unroute(f"{server.url}embed")
    context.route(f"{server.url}embed", refusal(429, "Too many."))  # without a Retry-After, as some proxies
    waiting.find("#retry").click()
    waiting.until(lambda: waiting.alert().startswith("Too many."))
    held: list[Route] = []
    context.route(f"{server.url}embed", lambda route: held.append(route))
    waiting.page.evaluate(HURRY)
    waiting.find("#retry").click()
    waiting.find("#alert").wait_for(state="hidden")
    refusal(500, "The model broke again.")(held[0])
    waiting.until(lambda: waiting.alert().startswith("The model broke again."))


def test_a_search_that_is_cancelled_takes_its_message_along(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """It stayed where the server could not be asked for its model: nothing waited any more."""
    visitor.add(TRUCK)
    context.route(f"{server.url}model", refusal(500, "The model broke."))
    visitor.press("s")
    visitor.until(lambda: visitor.alert().startswith("The model broke."))
    visitor.press("Escape")
    visitor.find("#alert").wait_for(state="hidden")


def test_a_server_that_refuses_to_describe_itself_is_said(
    context: BrowserContext, server: PageServer
) -> None:
    """The page showed no model, and no word."""
    visitor = Visitor(context, server.url)
    context.route(f"{server.url}model", refusal(403, "Not from here."))
    visitor.page.reload()
    visitor.until(lambda: visitor.alert().startswith("Not from here."))
    assert visitor.faults == []


def test_the_button_for_the_key_opens_its_field(context: BrowserContext, server: PageServer) -> None:
    visitor = Visitor(context, server.url)
    visitor.page.evaluate("sessionStorage.setItem('sam2-api-key', 'sesame')")
    visitor.page.reload()
    visitor.find("#key-button").click()
    assert visitor.find("#key").input_value() == "sesame"
    visitor.find("#key").fill("open")
    visitor.find("#key").press("Enter")
    visitor.find("#alert").wait_for(state="hidden")
    visitor.find("#key-button").click()
    visitor.find("#dismiss").click()
    assert not visitor.find("#key").is_visible()
    visitor.press("e")
    visitor.until(lambda: "nothing to export" in visitor.alert())
    assert not visitor.find("#key").is_visible()
    assert visitor.page.evaluate("sessionStorage.getItem('sam2-api-key')") == "open"


@pytest.mark.parametrize("way", ["waits", "sends"])
def test_a_picture_that_is_removed_lets_the_next_be_uploaded(
    visitor: Visitor, context: BrowserContext, server: PageServer, way: str
) -> None:
    """It was asked for again and again, and the others stood behind it."""
    held: list[Route] = []
    answers = {"waits": refusal(500, "The model broke."), "sends": lambda route: held.append(route)}
    context.route(f"{server.url}embed", answers[way])
    choose(visitor, TRUCK)
    visitor.until(lambda: "Try now" in visitor.alert() or held != [])
    visitor.find("#thumbnails .remove").click(force=True)
    visitor.find("#alert").wait_for(state="hidden")
    context.unroute(f"{server.url}embed")
    visitor.add(CAT)
    assert visitor.alert() == ""


def test_a_video_that_is_removed_is_uploaded_no_more(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """Its message stayed, and the rest of its frames were embedded."""
    context.route(f"{server.url}videos", refusal(500, "The disk is full."))
    Watcher(visitor).drop(("walk.mp4", "video/mp4", b"any"))
    visitor.until(lambda: "The disk is full." in visitor.alert())
    visitor.until(lambda: "walk.mp4" in visitor.stored())
    other = Visitor(context, server.url)
    other.find("#thumbnails .remove").click(force=True)
    other.until(lambda: "walk.mp4" not in other.stored())
    visitor.page.evaluate("dispatchEvent(new Event('focus'))")
    visitor.find("#alert").wait_for(state="hidden")
    other.page.close()
    sent: list[Route] = []
    context.route(f"{server.url}embed*", lambda route: (sent.append(route), route.fallback()))
    server.segmenter.gate.clear()
    Watcher(visitor).choose_frames([(f"{shade}.png", picture(shade=shade)) for shade in range(9)])
    visitor.until(lambda: sent != [])
    visitor.find("#thumbnails .remove").click(force=True)
    server.segmenter.gate.set()
    visitor.page.wait_for_timeout(200)
    assert len(sent) == 1


def test_a_key_with_a_character_that_cannot_be_sent_is_asked_for_again(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """The page said that the server does not respond, and tried again for ever."""
    visitor.page.evaluate("sessionStorage.setItem('sam2-api-key', 'sesame\\u200b')")
    visitor.page.reload()
    visitor.find("#key").wait_for()
    assert "cannot be sent" in visitor.alert()
    visitor.find("#key").fill("sesame")
    visitor.find("#key").press("Enter")
    visitor.find("#alert").wait_for(state="hidden")
    visitor.add(TRUCK)


def test_what_is_dropped_and_no_file_is_said(visitor: Visitor) -> None:
    """As a picture of another page, of which some browsers give only the address. Nothing happened at all."""
    visitor.page.evaluate(
        """() => {
          const dataTransfer = new DataTransfer();
          dataTransfer.setData("text/uri-list", "https://example.org/cat.png");
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }"""
    )
    visitor.until(lambda: visitor.alert().startswith("What was dropped is no file."))
