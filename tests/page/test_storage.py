"""A browser that stores nothing or no more, and files that change on disk."""

import threading
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog

from tests.fakes import RADII, disc_mask
from tests.page.conftest import PageServer
from tests.page.scene import CAT, TRUCK
from tests.page.visitor import HEIGHT, WIDTH, Visitor
from tests.page.watcher import Watcher
from tests.small_videos import clip

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


NO_FILES = """const put = IDBObjectStore.prototype.put;
  const isFile = (value) => value instanceof Blob || (Array.isArray(value) && value.some(isFile));
  IDBObjectStore.prototype.put = function (value, ...key) {
    if (!isFile(value)) return put.call(this, value, ...key);
    window.refused = (window.refused ?? 0) + 1;
    queueMicrotask(() => this.transaction.abort());
    return put.call(this, null, ...key);
  };"""


SLOW = """(quick) => {
  const read = Blob.prototype.arrayBuffer;
  Blob.prototype.arrayBuffer = async function () {
    if (this.name === "cat.png" && !quick--) await new Promise((resolve) => (window.copy = resolve));
    return read.call(this);
  };
}"""
"""A copy takes long: after one that is quick, that which is stored as bytes."""


def test_where_no_files_are_stored_their_bytes_are(browser: Browser, server: PageServer) -> None:
    """As in Safari's private windows. There the work was lost with a reload, without a word."""
    with browser.new_context(viewport={"width": 1000, "height": 640}) as context:
        context.add_init_script(NO_FILES)
        visitor = Visitor(context, server.url)
        visitor.add(TRUCK)
        visitor.click(200, 150)
        mask = disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH)
        visitor.until_seen(mask)
        visitor.until(lambda: '"counts"' in visitor.stored())
        visitor.page.reload()
        visitor.until_seen(mask)
        visitor.page.evaluate(SLOW, 1)
        visitor.add(CAT)
        visitor.click(200, 150)
        visitor.until_seen(mask)
        visitor.page.evaluate("copy()")
        visitor.until(lambda: visitor.stored().count('"counts"') == 6)
        visitor.page.reload()
        visitor.until_seen(mask)
        watcher = Watcher(visitor)
        watcher.open(clip(frames=3, size=(WIDTH, HEIGHT)))
        visitor.until(lambda: visitor.stored().count('"video":true') == 1)
        visitor.page.reload()
        watcher.until_ready()
        assert visitor.page.evaluate("refused") == 1, (
            "what cannot be stored is tried once, and not with a file"
        )
        assert visitor.alert() == ""


def test_a_full_disk_is_said_once(context: BrowserContext, server: PageServer) -> None:
    """It shows at the end of a transaction, after each of its requests: the work was lost with the next reload."""
    devtools = context.new_cdp_session(
        context.new_page()
    )  # once a page has stored, Chromium asks no more for a while
    quota = {"origin": server.url.rstrip("/"), "quotaSize": 1000}
    devtools.send("Storage.overrideQuotaForOrigin", quota)
    visitor = Visitor(context, server.url)
    visitor.add(TRUCK)
    visitor.until(lambda: visitor.alert().startswith("This browser stores no more for this page."))
    visitor.find("#dismiss").click()
    visitor.click(200, 150)
    visitor.until(lambda: visitor.find("#objects .figure").inner_text() not in ("", "…"))
    visitor.page.wait_for_timeout(200)
    assert visitor.alert() == ""


_MASKS = """async () => {
  const done = (request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
  const database = await done(indexedDB.open("sam2-page"));
  const [record] = await done(database.transaction("records").objectStore("records").getAll());
  database.close();
  return record?.objects[0]?.masks.size; // it is written a moment later than the page shows it
}"""
_FAST = "const now = performance.now.bind(performance); performance.now = () => 1e5 * now()"


def test_a_reload_in_the_middle_of_tracking_keeps_what_is_tracked(
    visitor: Visitor, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stored at the end only: an hour of tracking was lost with the window."""
    permits, decode = threading.Semaphore(3), server.segmenter.decode  # of the click, and of frames 1 and 2

    def permitted(jobs: Any) -> Any:
        permits.acquire()
        return decode(jobs)

    monkeypatch.setattr(server.segmenter, "decode", permitted)
    watcher = Watcher(visitor)
    watcher.open(clip(frames=6, size=(WIDTH, HEIGHT)))
    visitor.click(200, 150)
    visitor.until_seen(disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH))
    visitor.page.evaluate(_FAST)
    watcher.button("Track forward").click()
    visitor.until(lambda: visitor.page.evaluate(_MASKS) == 3)
    visitor.page.reload()
    permits.release(100)
    watcher.until_ready()
    watcher.visitor.find("#timeline input[type=range]").fill("2")
    watcher.until_at(2)
    visitor.until_seen(disc_mask(200, 150, RADII[1], height=HEIGHT, width=WIDTH))


def test_a_picture_is_shown_and_uploaded_though_its_file_has_left(
    visitor: Visitor, server: PageServer, tmp_path: Path
) -> None:
    """As a card that is taken out. The page said that the browser, or the server, cannot do it."""
    files = {name: tmp_path / name for name in ("truck.png", "cat.png")}
    for name, content in (TRUCK, CAT):
        files[name].write_bytes(content)
    server.segmenter.gate.clear()
    visitor.find("#files").set_input_files(list(files.values()))
    visitor.until(lambda: "cat.png" in visitor.stored())
    visitor.page.wait_for_timeout(200)
    for file in files.values():
        file.unlink()
    server.segmenter.gate.set()
    visitor.until_ready()
    for key in ("PageDown", "PageUp"):
        visitor.press(key)
        visitor.until_ready()
        visitor.page.wait_for_timeout(300)  # until it is decoded
    server.forget()
    visitor.click(200, 150)
    visitor.until(lambda: len(server.segmenter.decoded) == 1)
    assert visitor.alert() == ""


def test_a_picture_that_is_removed_while_another_windows_work_is_read_stays_away(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """As by a tap, whose first half makes the window catch up: it came back as it had been read."""
    visitor.add(TRUCK, CAT)
    visitor.until(lambda: "cat.png" in visitor.stored())
    other = Visitor(context, server.url)
    other.until_ready()
    other.click(200, 150)
    other.until(lambda: '"counts"' in other.stored())
    visitor.page.evaluate(
        "() => { dispatchEvent(new Event('focus')); document.querySelector('.remove').click(); }"
    )
    visitor.page.wait_for_timeout(300)
    assert visitor.find("#thumbnails li").count() == 1
    visitor.until(lambda: "truck.png" not in visitor.stored())


def test_the_browser_asks_before_it_leaves_what_is_not_stored_yet(visitor: Visitor) -> None:
    """A hundred photographs take ten seconds: those behind them, and all work on them, were gone with a reload."""
    visitor.page.evaluate(SLOW, 0)
    visitor.add(TRUCK, CAT)
    visitor.press("PageDown")
    visitor.until_ready()
    visitor.click(200, 150)
    mask = disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH)
    visitor.until_seen(mask)
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    visitor.page.on("dialog", stay)
    visitor.page.evaluate("setTimeout(() => location.reload())")
    visitor.until(lambda: asked == ["beforeunload"])
    visitor.page.evaluate("copy()")
    visitor.until(lambda: visitor.stored().count('"counts"') == 3)
    visitor.page.reload()
    visitor.until_seen(mask)
    assert asked == ["beforeunload"]
