"""A user of the page who works on a video: what they do with the timeline. Does not know about the server."""

import base64
from collections.abc import Sequence
from typing import Any

from playwright.sync_api import Locator

from tests.page.visitor import Visitor

_DROP = """(files) => {
  const transfer = new DataTransfer();
  for (const [name, type, data] of files) {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  const event = new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.getElementById("stage").dispatchEvent(event);
}"""


class Watcher:
    """A visitor with a video. Frames are counted from 0, as on the wire; the page counts them from 1."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.timeline: Locator = visitor.find("#timeline")

    def drop(self, *files: tuple[str, str, bytes]) -> None:
        """Drop files: name, type, content."""
        self.visitor.page.evaluate(
            _DROP, [[name, kind, base64.b64encode(data).decode()] for name, kind, data in files]
        )

    def open(self, data: bytes, name: str = "walk.mp4", kind: str = "video/mp4") -> None:
        """Drop a video, and wait until it can be clicked on."""
        self.drop((name, kind, data))
        self.until_ready()

    def choose_frames(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Choose pictures as frames."""
        chosen: Any = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files]
        self.visitor.find("#frames").set_input_files(chosen)

    def until_ready(self) -> None:
        """Wait until the video can be clicked on."""
        self.timeline.wait_for()
        self.visitor.until(self.visitor.find("#progress").is_hidden)
        self.until_at(self.frame)

    @property
    def frame(self) -> int:
        """The number of the frame that is sought."""
        return int(self.visitor.find("#timeline input[type=range]").input_value())

    def until_at(self, frame: int) -> None:
        """Wait until a frame is sought, and shown."""
        self.visitor.until(lambda: self.frame == frame)
        self.visitor.until(lambda: self.visitor.find("#timeline").get_attribute("data-shown") == str(frame))

    def button(self, name: str) -> Locator:
        """Return a button of the timeline."""
        return self.timeline.get_by_role("button", name=name, exact=True)

    def keyframes(self) -> list[str]:
        """Return what the buttons of the prompts say."""
        return [str(each.get_attribute("title")) for each in self.visitor.find(".keyframes button").all()]

    def track(self, name: str = "Track forward") -> None:
        """Propagate, and wait until it is done."""
        self.button(name).click()
        self.until_tracked()

    def until_tracked(self) -> None:
        """Wait until a propagation has ended."""
        self.visitor.until(lambda: self.button("Track all").is_visible())
