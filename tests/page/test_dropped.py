"""Folders that are dropped on the page."""

from pathlib import Path

from playwright.sync_api import BrowserContext

from tests.fakes import picture
from tests.page.visitor import Visitor

COUNT_THUMBNAILS = """() => {
  const make = createImageBitmap;
  window.most = window.now = 0;
  window.createImageBitmap = (file, options) => {
    if (!options) return make(file);
    most = Math.max(most, ++now);
    return make(file, options).finally(() => now--);
  };
}"""
"""How many thumbnails are made at once, each from a whole picture."""


def drop(context: BrowserContext, visitor: Visitor, *paths: Path) -> None:
    """Drop files and folders, as a file manager does."""
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    devtools = context.new_cdp_session(visitor.page)
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 300, "data": data})


def test_the_pictures_of_a_folder_are_taken_in_the_order_of_their_numbers(
    visitor: Visitor, context: BrowserContext, tmp_path: Path
) -> None:
    """A folder was told to be no picture. Its thumbnails were made all at once, in gigabytes of memory."""
    visitor.page.evaluate(COUNT_THUMBNAILS)
    folder, beside = tmp_path / "folder", tmp_path / "beside.png"
    (folder / "more").mkdir(parents=True)
    names = ("10.png", "2.png", "more/1.png", ".hidden.png", "notes.txt")
    for shade, file in enumerate([beside, *map(folder.joinpath, names)]):
        file.write_bytes(picture(shade=shade))
    drop(context, visitor, folder, beside)
    titles = visitor.find("nav .open")
    visitor.until(lambda: titles.count() == 4)
    assert [each.get_attribute("title") for each in titles.all()] == [
        "2.png",
        "10.png",
        "1.png",
        "beside.png",
    ]
    drawn = "[...document.querySelectorAll('.open canvas')].every((canvas) => canvas.width)"
    visitor.until(lambda: visitor.page.evaluate(drawn))
    assert visitor.page.evaluate("most") == 1
    assert visitor.alert().startswith("1 of 5 files are neither pictures nor videos")


def test_an_empty_folder_is_said(visitor: Visitor, context: BrowserContext, tmp_path: Path) -> None:
    drop(context, visitor, tmp_path)
    visitor.until(lambda: visitor.alert().startswith("There are no files in the folder."))
