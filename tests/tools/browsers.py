"""The page in Firefox and in WebKit, Safari's engine: the main ways through it. tests/page has all, in Chromium."""

import io
import json
import sys
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

from tests.server import ROOT
from tests.tools.browsers_driven import NEEDED, Browser, Firefox, WebKit, missing
from tests.tools.checking import Checks, serving

HATS = ROOT / "docs" / "hats.jpg"
FRAMES = 8

PLACE = """const { left, top, width, height } = document.getElementById("stage").getBoundingClientRect();
return [left + width / 2, top + height / 2];"""
FIGURES = """return [...document.querySelectorAll("#objects .figure")].map((each) => +each.textContent)"""
PAINTED = """const canvas = document.getElementById("masks");
const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
return data.filter((value, at) => at % 4 === 3 && value).length;"""
SAID = """return document.getElementById("said").textContent"""
ALERT = """return document.getElementById("alert-text").textContent"""
RECORDS = (
    """return ["webm", "mp4"].some((each) => globalThis.MediaRecorder?.isTypeSupported(`video/${each}`))"""
)
FORWARD = (
    """[...document.querySelectorAll("button")].find((each) => each.textContent.trim() === "Track forward")"""
)


def is_said(words: str) -> str:
    """A script: whether an announcement has these words."""
    return f"return document.getElementById('said').textContent.includes({json.dumps(words)})"


def enter(browser: Browser, url: str) -> None:
    """Open the page, and note which of its scripts fail from then on."""
    browser.open(url)
    browser.until("return document.getElementById('model').textContent === 'builtin'")
    script = "window.faults = [];"
    for kind in ("error", "unhandledrejection"):
        script += (
            f"addEventListener('{kind}', ({{ message, reason }}) => faults.push(message ?? String(reason)));"
        )
    browser.run(script)


def click_on_a_picture(checks: Checks, browser: Browser, url: str) -> None:
    """Click, look closer, draw a box, find everything, export, reload."""
    enter(browser, url)
    browser.choose("#files", HATS)
    checks.check("a picture is embedded", browser.until(is_said("hats.jpg is ready, 512 by 341")))
    x, y = browser.run(PLACE)
    browser.move(x - 40, y)
    browser.move(x, y)
    checks.check("a preview follows the pointer", browser.until(PAINTED))
    browser.click(x, y)
    checks.check("a click has a mask", browser.until(f"{FIGURES}.some((each) => each > 0.5)"))
    browser.run("document.getElementById('closer').click()")
    browser.click(x + 9, y + 9)
    checks.check("a closer look", browser.until(is_said("A closer look.")), browser.run(SAID))
    browser.run("document.getElementById('accept').click()")
    browser.move(x - 230, y - 140)
    browser.press()
    browser.move(x - 100, y)
    browser.move(x - 70, y + 60)
    browser.release()
    checks.check("a box has a mask", browser.until(f"{FIGURES}.filter((each) => each > 0).length === 2"))

    browser.run("document.getElementById('everything').click()")
    found = browser.until("return document.getElementById('found-count').textContent")
    checks.check("everything is found", found, found)
    browser.run("document.getElementById('clear').click()")
    browser.run("document.querySelector('[data-save=coco]').click()")
    saved = browser.downloaded("coco.json")
    annotations = json.loads(saved.read_text())["annotations"] if saved else []
    checks.check("COCO is exported", len(annotations) == 2)

    before = browser.run(FIGURES)
    checks.check("no script has failed", browser.run("return faults.length === 0"))
    enter(browser, url)
    checks.check("a reload keeps the work", browser.until(f"{FIGURES}.length === 2"), browser.run(FIGURES))
    checks.check("as it was", browser.run(FIGURES) == before)


def track(checks: Checks, browser: Browser, clip: Path) -> None:
    """Follow an object through a video, and export it; the page is open."""
    browser.choose("#files", clip)
    browser.until("return !!document.querySelector('#timeline input[type=range]')")
    browser.until(
        "return document.getElementById('progress').hidden && !document.querySelector('#objects .figure')"
    )
    x, y = browser.run(PLACE)
    browser.click(x, y)
    checks.check("a click on a frame has a mask", browser.until(f"{FIGURES}.some((each) => each > 0)"))
    browser.run(f"{FORWARD}.click()")
    last = f"return +document.querySelector('#timeline input[type=range]').value === {FRAMES - 1}"
    checks.check("the object is tracked to the last frame", browser.until(last))
    browser.until(f"return !!{FORWARD}?.offsetParent")
    browser.run("document.querySelector('[data-save=masks]').click()")
    saved = browser.downloaded("*-masks.zip")
    names = zipfile.ZipFile(saved).namelist() if saved else []
    checks.check("PNG masks are exported", len(names) == FRAMES, len(names))
    records = browser.run(RECORDS)  # as WebKitGTK does not, but Safari does
    browser.run("document.querySelector('[data-save=overlay]').click()")
    if records:
        saved = browser.downloaded("*-overlay.webm")
        checks.check("an overlay video is exported", bool(saved), saved and saved.stat().st_size)
    else:
        checks.check(
            "that it cannot record is said", browser.until(f"{ALERT}.includes('cannot record video')")
        )
    checks.check("none with a video", browser.run("return faults.length === 0"))


def moving(path: Path) -> bytes:
    """A GIF: the camera goes over a picture."""
    file = io.BytesIO()
    with Image.open(path) as picture:
        frames = [picture.convert("RGB").crop((8 * n, 40, 8 * n + 320, 280)) for n in range(FRAMES)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


def main() -> None:
    """Run all checks."""
    if missing():
        sys.exit(f"Firefox or WebKitGTK is not installed here: {NEEDED}")
    checks = Checks()
    with serving() as (url, _), tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.gif"
        clip.write_bytes(moving(HATS))
        for kind in (Firefox, WebKit):
            with tempfile.TemporaryDirectory(
                ignore_cleanup_errors=True
            ) as own:  # browsers write while they end
                browser = kind(Path(own))
                print(browser.name)
                try:
                    click_on_a_picture(checks, browser, url)
                    track(checks, browser, clip)
                finally:
                    browser.close()
    checks.end()


if __name__ == "__main__":
    main()
