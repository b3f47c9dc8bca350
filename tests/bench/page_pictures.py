"""Updates docs/page.jpg and docs/timeline.jpg, the page with a picture and with a tracked video.

`python -m tests.bench.page_pictures`. The clip is docs/hats.jpg panned and zoomed; the tracker is the built-in
model's, by a server with default settings. It needs Chromium.
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

PHOTOGRAPH = ROOT / "docs/hats.jpg"
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


def on_whole(x: float, y: float) -> tuple[float, float]:
    """Return where a point of the photograph is on a picture of WIDTH x HEIGHT."""
    with Image.open(PHOTOGRAPH) as photograph:
        return x * WIDTH / photograph.width, y * HEIGHT / photograph.height


def write(page: Page, path: Path) -> None:
    """Write a JPEG of the page, without mouse and focus."""
    page.mouse.move(5, 895)
    page.evaluate("document.activeElement?.blur()")
    page.wait_for_timeout(500)
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        shot.convert("RGB").save(path, "JPEG", quality=84, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def show_picture(visitor: Visitor, path: Path) -> None:
    """Find three hats of the photograph."""
    visitor.add(("hats.jpg", PHOTOGRAPH.read_bytes()))
    for count, (left, top, right, bottom) in enumerate(HATS, 1):
        visitor.press("n")
        visitor.drag(on_whole(left, top), on_whole(right, bottom))
        visitor.until(lambda count=count: len(figures(visitor)) == count)  # type: ignore[misc]
    write(visitor.page, path)


def figures(visitor: Visitor) -> list[str]:
    """Return the scores of the objects that have been found."""
    return [text for text in visitor.find("#objects .figure").all_inner_texts() if text.strip("…")]


def show_video(visitor: Visitor, path: Path) -> None:
    """Track three hats through the clip."""
    watcher = Watcher(visitor)
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
    write(visitor.page, path)


def main() -> None:
    """Write both pictures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), checkpoint="", deadline_s="600") as url,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium(), args=FLAGS) as browser,
    ):
        for show, name in ((show_picture, "page.jpg"), (show_video, "timeline.jpg")):
            with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
                show(Visitor(context, url + "/", model="builtin"), ROOT / "docs" / name)


if __name__ == "__main__":
    main()
