"""The search for everything as a user sees it: its progress, its end, and errors of the server."""

import json

import httpx
import pytest
from playwright.sync_api import BrowserContext, Route

from tests.fakes import RADII, disc_mask
from tests.page.conftest import PageServer
from tests.page.fabricated import lines
from tests.page.scene import CAT, SCENE, TRUCK, colour_at, move, named
from tests.page.visitor import HEIGHT, WIDTH, Visitor


def test_the_server_finds_shows_its_progress_and_stops(visitor: Visitor, server: PageServer) -> None:
    """Everything by the service itself, around a segmenter that waits at its gate."""
    visitor.add(TRUCK, CAT)
    server.segmenter.gate.clear()
    waits = [
        lambda: visitor.press("Escape"),
        lambda: visitor.find("#stop").click(),
        lambda: visitor.press("PageDown"),
    ]
    for cancel in waits:
        _begin(visitor, server)
        cancel()
        visitor.find("#search").wait_for(state="hidden")
    visitor.until(
        lambda: _ended_searches(server) == len(waits)
    )  # the server has seen that they were given up
    server.segmenter.gate.set()
    visitor.until_ready()
    batches = len(server.segmenter.decoded)
    assert batches <= len(waits), "cancelled searches must not go on"
    assert visitor.alert() == ""
    assert not visitor.find("#everything-panel").is_visible()


def _begin(visitor: Visitor, server: PageServer) -> None:
    """Search, until the server knows. The page asks for the model first: cancelled then, nothing is sent."""
    before = server.received.count("/everything")
    visitor.find("#everything").click()
    visitor.until(lambda: "Looking for every object: 0 %" in visitor.find("#search").inner_text())
    visitor.until(lambda: server.received.count("/everything") == before + 1)


def _ended_searches(server: PageServer) -> float:
    lines = httpx.get(f"{server.url}metrics", trust_env=False).text.splitlines()
    counts = [line for line in lines if line.startswith("sam2_requests_total{") and '"/everything"' in line]
    return sum(float(line.split()[-1]) for line in counts)


def test_a_picture_that_was_forgotten_is_uploaded_again_and_searched(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """By the service itself, with fewer clicks than the page asks for."""

    def fewer(route: Route) -> None:
        route.continue_(
            post_data=json.dumps(json.loads(route.request.post_data or "") | {"points_per_side": 2})
        )

    context.route(f"{server.url}everything", fewer)
    visitor.add(TRUCK)
    (image,) = httpx.get(f"{server.url}images", trust_env=False).json()["images"]
    httpx.delete(f"{server.url}images/{image['image_id']}", trust_env=False)
    visitor.press("s")
    visitor.find("#everything-panel").wait_for()
    visitor.until(lambda: colour_at(visitor, 150, 100) is not None)
    assert len(server.segmenter.encoded) == 2
    assert visitor.alert() == ""
    move(visitor, 150, 100)
    visitor.until_seen(disc_mask(150, 100, RADII[1], height=HEIGHT, width=WIDTH))
    assert "IoU 0.90" in named(visitor)


AS_LINES = {"content_type": "application/x-ndjson"}
FAILURES = {
    "a full queue": ({"status": 503, "headers": {"Retry-After": "60"}}, "Trying again in"),
    "the deadline": ({"status": 504}, "Try now"),
    "an error after the first step": (None, "Try now"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_errors_are_quoted_and_tried_again(
    visitor: Visitor, context: BrowserContext, server: PageServer, failure: str
) -> None:
    visitor.add(TRUCK)
    refusal, offer = FAILURES[failure]
    error = json.dumps({"error": {"code": "no_luck", "message": "No luck this time."}})
    replies = [
        {"body": error, "content_type": "application/json", **refusal}
        if refusal
        else {"body": '{"progress": 0.5, "found": 1}\n' + error + "\n", **AS_LINES},
        {"body": lines(SCENE, height=HEIGHT, width=WIDTH), **AS_LINES},
    ]
    context.route(f"{server.url}everything", lambda route: route.fulfill(**replies.pop(0)))
    visitor.press("s")
    visitor.until(lambda: "No luck this time." in visitor.alert())
    assert offer in visitor.alert()
    visitor.find("#retry").click()
    visitor.until(lambda: colour_at(visitor, 460, 200) is not None)
    assert visitor.alert() == ""


def test_the_threshold_is_of_the_model_that_the_server_has_now(
    visitor: Visitor, context: BrowserContext, server: PageServer, answered: list[dict[str, object]]
) -> None:
    """A server that was restarted with another model keeps pictures, so nothing else tells."""
    visitor.add(TRUCK)

    def other(route: Route) -> None:
        model = route.fetch().json()
        route.fulfill(json={**model, "model": "other", "everything": {"pred_iou_thresh": 0.88}})

    context.route(f"{server.url}model", other)
    visitor.press("s")
    visitor.find("#everything-panel").wait_for()
    assert [body["pred_iou_thresh"] for body in answered] == [0.63]
    assert visitor.find("#threshold").input_value() == "0.88"
    assert visitor.find("#model").inner_text() == "other"


def test_a_connection_that_is_lost_halfway_is_asked_again(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    visitor.add(TRUCK)
    replies = ['{"progress": 0.5, "found": 1}\n', lines(SCENE, height=HEIGHT, width=WIDTH)]
    context.route(f"{server.url}everything", lambda route: route.fulfill(body=replies.pop(0), **AS_LINES))
    visitor.press("s")
    visitor.until(lambda: "does not respond" in visitor.alert())
    visitor.find("#retry").click()
    visitor.until(lambda: colour_at(visitor, 460, 200) is not None)
    assert visitor.alert() == ""


@pytest.mark.parametrize(("status", "steps"), [(422, ""), (200, '{"progress": 0.5, "found": 1}\n')])
def test_what_cannot_be_mended_is_told(
    visitor: Visitor, context: BrowserContext, server: PageServer, status: int, steps: str
) -> None:
    visitor.add(TRUCK)
    error = {"error": {"code": "invalid_prompt", "message": "Not on this picture."}}
    body = f"{steps}{json.dumps(error)}\n"
    context.route(
        f"{server.url}everything", lambda route: route.fulfill(status=status, body=body, **AS_LINES)
    )
    visitor.press("s")
    visitor.until(lambda: "Not on this picture." in visitor.alert())
    visitor.until(lambda: not visitor.find("#search").is_visible())
