"""A picture on which four objects are found, and how a visitor sees them on the page."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from playwright.sync_api import BrowserContext, Route

from tests.fakes import picture
from tests.page.fabricated import Mask, Object, lines
from tests.page.visitor import HEIGHT, WIDTH, Visitor

TRUCK, CAT = (("truck.png", picture(WIDTH, HEIGHT, shade=90)), ("cat.png", picture(WIDTH, HEIGHT, shade=200)))
NOTHING = np.zeros((HEIGHT, WIDTH), bool)
RGB = tuple[int, int, int]


def block(left: int, top: int, right: int, bottom: int, *, height: int = HEIGHT, width: int = WIDTH) -> Mask:
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


LARGE = Object(block(84, 84, 404, 324), 0.9, 0.8)
INNER = Object(block(164, 124, 244, 204), 0.7, 0.6)
BESIDE = Object(block(404, 84, 524, 324), 0.85)
POOR = Object(block(532, 0, 600, 84), 0.4)
SCENE = [found.reply() for found in (LARGE, INNER, BESIDE, POOR)]

OVERLAY = """([x, y]) => {
  const canvas = document.getElementById("found");
  return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
}"""


def answer(
    context: BrowserContext,
    url: str,
    masks: Sequence[dict[str, Any]],
    *,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> list[dict[str, object]]:
    """Answer every search with these masks. Returns the bodies of the requests."""
    bodies: list[dict[str, object]] = []
    text = lines(masks, height=height, width=width)

    def reply(route: Route) -> None:
        assert route.request.headers["accept"] == "application/x-ndjson"
        bodies.append(json.loads(route.request.post_data or ""))
        route.fulfill(body=text, content_type="application/x-ndjson")

    context.route(f"{url}everything", reply)
    return bodies


def colour_at(visitor: Visitor, x: float, y: float) -> RGB | None:
    """Return the colour of what was found over a point of the picture, shown whole; None: nothing."""
    stage = visitor.find("#stage").bounding_box()
    assert stage is not None
    left, top = visitor.place(x, y)
    red, green, blue, alpha = visitor.page.evaluate(OVERLAY, [left - stage["x"], top - stage["y"]])
    return (red, green, blue) if alpha else None


def find_all(visitor: Visitor) -> None:
    visitor.add(TRUCK)
    visitor.press("s")
    visitor.find("#everything-panel").wait_for()
    visitor.until(lambda: colour_at(visitor, 440, 200) is not None)


def move(visitor: Visitor, x: float, y: float) -> None:
    visitor.page.mouse.move(*visitor.place(x + 0.5, y + 0.5))


def named(visitor: Visitor) -> str:
    return visitor.find("#named").inner_text() if visitor.find("#named").is_visible() else ""
