"""The page of the API, /docs: it lists every operation, and "Try it out" asks this server."""

from playwright.sync_api import BrowserContext

from tests.page.conftest import PageServer
from tests.page.visitor import PATIENCE_S


def test_a_request_is_tried_out_without_another_host(
    context: BrowserContext, lasting_server: PageServer
) -> None:
    faults: list[str] = []
    asked: list[str] = []
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{lasting_server.url}docs")
    page.locator("#operations-masks-decode").wait_for()
    page.locator("#operations-server-get_model").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.locator("#operations-server-get_model .live-responses-table .response-col_status").first.wait_for()
    assert asked[-1] == f"{lasting_server.url}model"
    assert [url for url in asked if not url.startswith((lasting_server.url, "data:"))] == []
    assert faults == []
