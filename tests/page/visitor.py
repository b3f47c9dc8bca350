"""A user of the page in Chromium: what they do with mouse and keys, and which masks they see.

Does not know about the server behind the page.
"""

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from playwright.sync_api import BrowserContext, FileChooser, Locator, Page

WIDTH, HEIGHT = 600, 400
"""Size of the pictures that tests use, in pixels."""
PATIENCE_S = 60.0
"""A timeout that no passing test comes near."""

_STORED = """async () => {
  const done = (request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
  const database = await done(indexedDB.open("sam2-page"));
  const transaction = database.transaction(["files", "records"]);
  const files = await done(transaction.objectStore("files").getAllKeys());
  const records = await done(transaction.objectStore("records").getAll());
  database.close();
  return JSON.stringify(records.filter(({ id }) => files.includes(id)));
}"""
_STEP = 8
_SHOWN = """([width, height, step, scale, left, top]) => {
  const canvas = document.getElementById("masks");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let bytes = "";
  for (let y = 0.5; y < height; y += step)
    for (let x = 0.5; x < width; x += step) {
      const at = (Math.floor(y * scale + top) * canvas.width + Math.floor(x * scale + left)) * 4;
      bytes += String.fromCharCode(...data.subarray(at, at + 4));
    }
  return btoa(bytes);
}"""

_DRAWN = """() => {
  const canvas = document.getElementById("picture");
  const stage = document.getElementById("stage").getBoundingClientRect();
  if (canvas.width !== Math.round(stage.width) || canvas.height !== Math.round(stage.height)) return false;
  return canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[3] > 0;
}"""
"""Whether a picture is drawn over a stage that has its size: a first one makes room for the thumbnails."""


class Visitor:
    """A user of the page. Coordinates are pixels of a WIDTH x HEIGHT picture, shown whole as at the start."""

    def __init__(self, context: BrowserContext, url: str, *, model: str = "fake") -> None:
        self.url = url
        self.page: Page = context.new_page()
        self.requests: list[str] = []
        self.faults: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._note)
        self._choosers: list[FileChooser] = []
        # Listen from the start: Playwright misses a dialog opened by a key if it starts to listen at the same time.
        self.page.on("filechooser", lambda chooser: self._choosers.append(chooser))
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.page.goto(url)
        self.until(lambda: self.find("#model").inner_text() == model)

    def find(self, selector: str) -> Locator:
        """Return the elements at a CSS selector."""
        return self.page.locator(selector)

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end, "the condition did not become true"
            self.page.wait_for_timeout(20)

    def stored(self) -> str:
        """Return what the browser keeps across a reload, as JSON."""
        return str(self.page.evaluate(_STORED))

    def until_back(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds in a window that is used again: its pointer comes back to the picture for
        each look, as one time may be before another window has written.
        """

        def came_back() -> bool:
            self.page.mouse.move(5, 5)
            self.page.mouse.move(*self.place(300, 200))
            return holds()

        self.until(came_back)

    def add(self, *files: tuple[str, bytes]) -> None:
        """Choose picture files, and wait until the server has the first."""
        payload: Any = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files]
        self.find("#files").set_input_files(payload)
        self.until_ready()

    def choose(self, action: Callable[[], None], name: str, data: bytes) -> None:
        """Choose a picture file in the dialog that `action` opens."""
        self._choosers.clear()
        action()
        self.until(lambda: bool(self._choosers))
        self._choosers.pop().set_files([{"name": name, "mimeType": "image/png", "buffer": data}])
        self.until_ready()

    def until_ready(self) -> None:
        """Wait until the current picture can be clicked on."""
        self.until(
            lambda: "uploading" not in (self.find("[aria-current=true]").get_attribute("aria-label") or "")
        )
        self.until(lambda: self.page.evaluate(_DRAWN))

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point of the picture is in the window."""
        stage = self.find("#stage").bounding_box()
        assert stage is not None
        scale, left, top = self._view()
        return stage["x"] + x * scale + left, stage["y"] + y * scale + top

    def click(self, x: float, y: float, *, button: Any = "left", held: str = "") -> None:
        """Click in the middle of a pixel of the picture, with a key held."""
        if held:
            self.page.keyboard.down(held)
        self.page.mouse.click(*self.place(x + 0.5, y + 0.5), button=button)
        if held:
            self.page.keyboard.up(held)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag from one point of the picture to another."""
        self.page.mouse.move(*self.place(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(*end), steps=4)
        self.page.mouse.up()

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def colour(self, x: int, y: int) -> tuple[int, int, int]:
        """Return red, green and blue of the mask over a pixel of the picture. x and y must be multiples of 8."""
        red, green, blue = self._shown()[y // _STEP, x // _STEP, :3].tolist()
        return red, green, blue

    def sees(self, mask: npt.NDArray[np.bool_]) -> bool:
        """Whether this mask (HEIGHT, WIDTH) is shown over the picture, except for the width of its outline."""
        return bool(((self._shown()[..., 3] > 0) == mask[::_STEP, ::_STEP]).mean() > 0.985)

    def until_seen(self, mask: npt.NDArray[np.bool_]) -> None:
        """Wait until this mask is shown over the picture."""
        self.until(lambda: self.sees(mask))

    def download(self, action: Callable[[], None]) -> tuple[str, Path]:
        """Return the name and the file that `action` saves."""
        with self.page.expect_download() as saved:
            action()
        return saved.value.suggested_filename, Path(saved.value.path())

    def alert(self) -> str:
        """Return the message shown over the picture, or ""."""
        return self.find("#alert").inner_text() if self.find("#alert").is_visible() else ""

    def _shown(self) -> npt.NDArray[np.uint8]:
        """Return red, green, blue, alpha (h, w, 4) of the displayed masks, at every eighth pixel of the picture."""
        data = base64.b64decode(self.page.evaluate(_SHOWN, [WIDTH, HEIGHT, _STEP, *self._view()]))
        return np.frombuffer(data, np.uint8).reshape(HEIGHT // _STEP, WIDTH // _STEP, 4)

    def _view(self) -> tuple[float, float, float]:
        """Return scale, left and top of the picture in the stage, as app/page/view.js fits it."""
        stage = self.find("#masks").evaluate("canvas => [canvas.width, canvas.height]")
        margin = min(24, stage[0] / 20)
        scale = min((stage[0] - 2 * margin) / WIDTH, (stage[1] - 2 * margin) / HEIGHT)
        return scale, (stage[0] - WIDTH * scale) / 2, (stage[1] - HEIGHT * scale) / 2

    def _note(self, message: Any) -> None:
        if "Content Security Policy" in message.text:
            self.faults.append(message.text)
