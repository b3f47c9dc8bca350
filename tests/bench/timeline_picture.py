"""Updates docs/timeline.jpg, the page with a tracked video: `python -m tests.bench.timeline_picture`.

The clip is docs/hats.jpg panned and zoomed; the tracker is the built-in model's, by a server with default settings.
It needs Chromium.
"""

import io
import tempfile
from pathlib import Path

import av
import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.page.conftest import FLAGS, chromium
from tests.page.visitor import HEIGHT, WIDTH, Visitor
from tests.page.watcher import Watcher
from tests.server import ROOT, running_server
from tests.small_videos import clip

PHOTOGRAPH, PICTURE = ROOT / "docs/hats.jpg", ROOT / "docs/timeline.jpg"
FRAMES, SHOWN = 30, 14
FIRST, LAST = (4, 10, 460), (84, 76, 380)
"""What of the photograph the first and the last frame show: left, top and width."""
HATS = ((52, 48, 202, 205), (206, 113, 312, 238), (304, 149, 384, 255))
"""Boxes in the photograph."""


def window(number: int) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of what a frame shows of the photograph."""
    part = number / (FRAMES - 1)
    left, top, width = (a + part * (b - a) for a, b in zip(FIRST, LAST, strict=True))
    return left, top, left + width, top + width * HEIGHT / WIDTH


def drawing(number: int) -> av.VideoFrame:
    """Return a frame."""
    with Image.open(PHOTOGRAPH) as photograph:
        frame = photograph.convert("RGB").resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=window(number)
        )
    return av.VideoFrame.from_ndarray(np.asarray(frame))


def on_first(x: float, y: float) -> tuple[float, float]:
    """Return where a point of the photograph is on the first frame."""
    left, top, right, bottom = window(0)
    return (x - left) * WIDTH / (right - left), (y - top) * HEIGHT / (bottom - top)


def photograph_of(page: Page) -> bytes:
    """Return the page as a JPEG."""
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        file = io.BytesIO()
        shot.convert("RGB").save(file, "JPEG", quality=84, optimize=True)
    return file.getvalue()


def main() -> None:
    """Track three hats through the clip, and write the picture."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), checkpoint="", deadline_s="600") as url,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium(), args=FLAGS) as browser,
    ):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        watcher = Watcher(Visitor(context, url + "/", model="builtin"))
        visitor = watcher.visitor
        watcher.open(
            clip(drawings=[drawing(number) for number in range(FRAMES)], size=(WIDTH, HEIGHT)), "hats.mp4"
        )
        for count, (left, top, right, bottom) in enumerate(HATS, 1):
            visitor.press("n")
            visitor.drag(on_first(left, top), on_first(right, bottom))
            visitor.until(lambda count=count: len(watcher.keyframes()) == count)  # type: ignore[misc]
        watcher.track("Track all")
        visitor.find("#timeline input[type=range]").fill(str(SHOWN))
        watcher.until_at(SHOWN)
        visitor.page.mouse.move(5, 895)
        visitor.page.wait_for_timeout(500)
        PICTURE.write_bytes(photograph_of(visitor.page))
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
