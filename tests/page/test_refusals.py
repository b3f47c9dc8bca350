"""Prompts that the server refuses: each is asked once, and nothing else is taken back with it."""

import json

from playwright.sync_api import BrowserContext, Route

from tests.page.conftest import PageServer
from tests.page.scene import TRUCK
from tests.page.test_notices import refusal
from tests.page.visitor import HEIGHT, WIDTH, Visitor
from tests.page.watcher import Watcher
from tests.small_videos import clip


def test_a_prompt_of_an_earlier_visit_is_refused_once(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """There was no step to take back, so it was asked again a hundred times a second."""
    visitor.add(TRUCK)
    server.segmenter.gate.clear()
    visitor.click(200, 150)
    visitor.until(lambda: '"points":[[' in visitor.stored())
    context.route(f"{server.url}decode", refusal(422, "No such prompt."))
    visitor.page.reload()
    visitor.until(lambda: "No such prompt." in visitor.alert())
    visitor.page.wait_for_timeout(300)
    assert visitor.requests.count(f"{server.url}decode") == 2
    context.unroute(f"{server.url}decode")
    server.segmenter.gate.set()
    visitor.click(300, 150)
    visitor.until(lambda: visitor.find("#objects .figure").inner_text() not in ("", "…"))


def test_what_was_done_since_a_refused_click_stays(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    visitor.add(TRUCK)
    visitor.click(420, 300)
    visitor.until(lambda: visitor.find("#objects .figure").inner_text() not in ("", "…"))
    visitor.press("a")
    held: list[Route] = []
    context.route(f"{server.url}decode", lambda route: held.append(route))
    visitor.click(200, 150)
    visitor.until(lambda: held != [])
    shown = visitor.find("#objects li button[title=Shown]").first
    shown.click()
    refusal(422, "No such prompt.")(held[0])
    visitor.until(lambda: "No such prompt." in visitor.alert())
    visitor.page.wait_for_timeout(300)
    assert len(held) == 1
    assert shown.get_attribute("aria-pressed") == "false"
    assert "!" in visitor.find("#objects .figure").all_inner_texts()


def test_what_was_done_since_a_refused_click_on_a_video_stays(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """It was taken back in the place of the click, which waited for ever."""
    watcher, held = Watcher(visitor), list[Route]()
    watcher.open(clip(frames=2, size=(WIDTH, HEIGHT)))
    context.route(f"{server.url}tracks/*/prompts", lambda route: held.append(route))
    visitor.click(200, 150)
    visitor.until(lambda: held != [])
    shown, figure = visitor.find("#objects li button[title=Shown]"), visitor.find("#objects .figure")
    shown.click()
    assert figure.inner_text() == "…"
    refusal(422, "No such prompt.")(held[0])
    visitor.until(lambda: "No such prompt." in visitor.alert())
    assert shown.get_attribute("aria-pressed") == "false"
    assert figure.inner_text() == "!"
    visitor.press("a")
    context.unroute(f"{server.url}tracks/*/prompts")
    visitor.click(220, 150)
    visitor.until(lambda: figure.first.inner_text() not in ("", "…", "!"))
    assert len(held) == 1


def test_an_object_of_another_models_visit_is_refined_from_its_pixels(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """Its logits have another size, so every click on it was refused and taken back."""
    refused: list[str] = []

    def answer(route: Route) -> None:
        logits = json.loads(route.request.post_data or "").get("mask_input")
        if not isinstance(logits, str):
            return route.fallback()
        refused.append(logits)
        body = {"error": {"code": "invalid_prompt", "message": "It comes from another model."}}
        return route.fulfill(status=422, body=json.dumps(body), content_type="application/json")

    context.route(f"{server.url}decode", answer)
    visitor.add(TRUCK)
    visitor.click(200, 150)
    visitor.until(lambda: visitor.find("#objects .figure").inner_text() not in ("", "…"))
    visitor.click(220, 150)
    visitor.until(lambda: server.prompts() == [((1,), False), ((1, 1), True)])
    visitor.page.wait_for_timeout(200)
    assert (len(refused), visitor.alert()) == (1, "")
