"""A browser that stores nothing or no more, and files that change on disk."""

from playwright.sync_api import Browser

from tests.fakes import RADII, disc_mask
from tests.page.conftest import PageServer
from tests.page.scene import TRUCK
from tests.page.visitor import HEIGHT, WIDTH, Visitor

DENY = """for (const name of ["localStorage", "sessionStorage", "indexedDB"])
  Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });"""


def test_without_any_storage_all_else_works(browser: Browser, server: PageServer) -> None:
    """As in Chromium when its user blocks all cookies. The page stayed blank, without a word."""
    with browser.new_context(viewport={"width": 1000, "height": 640}) as context:
        context.add_init_script(DENY)
        visitor = Visitor(context, server.url)
        assert visitor.alert().startswith("This browser stores nothing for this page.")
        visitor.press("h")
        assert visitor.find("#hover").get_attribute("aria-pressed") == "false"
        visitor.add(TRUCK)
        visitor.click(200, 150)
        visitor.until_seen(disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH))
        assert visitor.faults == []
