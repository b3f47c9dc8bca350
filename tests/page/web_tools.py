"""A web tool's page with the JavaScript client: runs scripts that use it. Does not know what they test."""

import base64
import itertools
from typing import Any

from playwright.sync_api import BrowserContext

from tests.fakes import picture
from tests.page.visitor import HEIGHT, PATIENCE_S, WIDTH

_SHADES = itertools.count(1)
"""Each tool has a picture of its own, which no earlier one has left with the server."""

_PRELUDE = """async ([png]) => {
  Object.assign(window, await import("/client.js"));
  window.client = new Client(location.origin);
  window.file = new Blob([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))], { type: "image/png" });
  window.caught = (promise) => promise.then(
    () => "nothing",
    (error) => ({ ...error, name: error.name, message: error.message }),
  );
}"""


class WebTool:
    """A page of the server's own origin, in which the client's names and `client`, `file`, `caught` are global."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.page = context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.page.goto(f"{url}healthz")  # a document without scripts of its own
        png = base64.b64encode(picture(WIDTH, HEIGHT, shade=next(_SHADES))).decode()
        self.page.evaluate(_PRELUDE, [png])

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what the body of an async function returns. The arguments are `given`."""
        late = f"new Promise((_, reject) => setTimeout(reject, {1000 * PATIENCE_S}, Error('no result')))"
        call = f"(given) => Promise.race([(async () => {{ {script} }})(), {late}])"
        return self.page.evaluate(call, list(arguments))
