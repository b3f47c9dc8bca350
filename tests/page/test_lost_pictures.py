"""A server that loses pictures: the page says what to do, in place of uploading in circles."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Route

from tests.page.conftest import PageServer
from tests.page.scene import TRUCK
from tests.page.visitor import Visitor

Asked = tuple[Callable[[Visitor], None], list[bool], list[str]]
LOSING: dict[str, Callable[[Visitor], None]] = {
    "decode": lambda visitor: visitor.click(200, 150),
    "everything": lambda visitor: visitor.press("s"),
}


@pytest.fixture(params=LOSING)
def asked(
    request: pytest.FixtureRequest, visitor: Visitor, context: BrowserContext, server: PageServer
) -> Asked:
    """How a visitor asks, whether the picture is lost at each question, in order, and the uploads."""
    lost: list[bool] = []
    uploads: list[str] = []

    def answer(route: Route) -> None:
        if lost.pop(0):
            server.forget()
        route.fallback()

    context.route(f"{server.url}{request.param}", answer)
    visitor.page.on("request", lambda sent: uploads.append(sent.url) if sent.url.endswith("embed") else None)
    visitor.add(TRUCK)
    return LOSING[request.param], lost, uploads


def test_a_picture_that_is_lost_twice_in_a_row_is_told(asked: Asked, visitor: Visitor) -> None:
    ask, lost, uploads = asked
    lost += [True, True, *[False] * 20]
    ask(visitor)
    visitor.until(lambda: "has lost this picture twice in a row" in visitor.alert())
    assert visitor.alert().startswith("truck.png: The server")
    assert "SAM2_DEVICE_CACHE_MIB" in visitor.alert()
    assert (len(uploads), len(lost)) == (2, 20)
    assert not visitor.find("#search").is_visible()
    visitor.find("#thumbnails .open").click()
    visitor.until(lambda: len(uploads) == 3)
    visitor.until_ready()
    assert visitor.alert() == ""


def test_a_picture_that_is_lost_now_and_then_is_uploaded_each_time(
    visitor: Visitor, server: PageServer
) -> None:
    visitor.add(TRUCK)
    for x in (100, 200, 300):
        server.forget()
        server.segmenter.decoded.clear()
        visitor.click(x, 150)
        visitor.until(lambda: len(server.segmenter.decoded) == 1)
        visitor.until_ready()
    assert len(server.segmenter.encoded) == 4
    assert visitor.alert() == ""
