"""Where and how everything is drawn: zoomed, turned, on large pictures, and pixel by pixel."""

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext

from tests.fakes import disc_mask, picture
from tests.page.conftest import PageServer
from tests.page.fabricated import Object, striped_cell
from tests.page.scene import (
    INNER,
    OVERLAY,
    answer,
    block,
    colour_at,
    find_all,
)
from tests.page.visitor import HEIGHT, WIDTH, Visitor


@pytest.mark.usefixtures("answered")
def test_it_moves_with_the_picture(visitor: Visitor) -> None:
    find_all(visitor)
    inner = colour_at(visitor, 200, 160)
    x, y = visitor.place(200.5, 160.5)
    visitor.page.mouse.move(x, y)
    visitor.page.mouse.wheel(0, -600)
    visitor.page.mouse.down(button="middle")
    visitor.page.mouse.move(x + 100, y + 60, steps=3)
    visitor.page.mouse.up(button="middle")
    stage = visitor.find("#stage").bounding_box()
    assert stage is not None
    moved = [x + 100 - stage["x"], y + 60 - stage["y"]]
    visitor.until(lambda: visitor.page.evaluate(OVERLAY, moved)[:3] == pytest.approx(inner, abs=4))
    visitor.page.mouse.click(x + 100, y + 60)
    visitor.press("0")
    visitor.until_seen(INNER.mask)


def test_it_lies_on_a_turned_photograph_as_the_browser_shows_it(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    corner = Object(block(0, 0, 244, 204), 0.9)
    answer(context, server.url, [corner.reply()])
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (HEIGHT, WIDTH), 90).save(file, "JPEG", exif=exif)  # stored on its side
    visitor.add(("turned.jpg", file.getvalue()))
    visitor.press("s")
    visitor.until(lambda: colour_at(visitor, 200, 160) is not None)
    assert colour_at(visitor, 284, 160) is None
    assert colour_at(visitor, 200, 244) is None
    visitor.click(200, 160)
    visitor.until_seen(corner.mask)


def test_two_hundred_masks_of_twelve_megapixels_are_drawn_right(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """Each cell of a grid has a colour unlike its neighbours', at its place. Masks are large and have many runs."""
    height, width, columns, rows = 3000, 4000, 20, 10
    cells = [
        striped_cell(x * 200, y * 300, cell=(300, 200), size=(height, width))
        for y in range(rows)
        for x in range(columns)
    ]
    answer(context, server.url, cells, height=height, width=width)
    visitor.add(("large.png", picture(width, height, shade=90)))
    visitor.press("s")
    visitor.until(lambda: visitor.find("#found-count").inner_text() == "200")
    shown = np.array(visitor.page.evaluate(_GRID, [columns, rows, width, height]), int)
    assert shown.shape == (rows, columns, 4)
    assert (shown[..., 3] > 0).all()
    for axis in (0, 1):
        differences = np.abs(np.diff(shown[..., :3], axis=axis)).sum(-1)
        assert differences.min() > 40


_GRID = """async ([columns, rows, width, height]) => {
  for (const _ of "12") await new Promise(requestAnimationFrame);
  const canvas = document.getElementById("found"), context = canvas.getContext("2d");
  const margin = Math.min(24, canvas.width / 20);
  const scale = Math.min((canvas.width - 2 * margin) / width, (canvas.height - 2 * margin) / height);
  const [left, top] = [(canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2];
  const at = (column, row) => {
    const x = (column + 0.5) * width / columns * scale + left, y = (row * 300 + 18) * scale + top;
    return [...context.getImageData(x, y, 1, 1).data];
  };
  const range = (length) => Array.from({ length }, (_, index) => index);
  return range(rows).map((row) => range(columns).map((column) => at(column, row)));
}"""


def test_the_labels_are_the_smallest_masks_pixel_by_pixel(visitor: Visitor) -> None:
    """label_map.js at the picture's own size, where nothing is rounded, against numpy; and the hit test."""
    random = np.random.default_rng(3)
    height, width = 61, 83
    shapes = [random.random((height, width)) < share for share in (1, 0.7, 0.3, 0.02)]
    shapes.append(disc_mask(20, 30, 5, height=height, width=width))
    expected = np.zeros((height, width), int)
    for label, shape in enumerate(shapes, 1):
        expected[shape] = label
    replies = [Object(shape, 0.9).reply() for shape in shapes]
    masks = [{"counts": reply["rle"]["counts"], "bbox": reply["bbox"]} for reply in replies]
    labels, hits = visitor.page.evaluate(
        """async ([masks, width, height]) => {
          const { decodeRuns } = await import("./client/rle.js");
          const { layLabels, holds } = await import("./page/label_map.js");
          const size = { width, height }, labels = new Uint16Array(width * height);
          const runs = ({ counts, bbox }) => ({ ends: decodeRuns(counts, width * height), bbox });
          const layers = masks.map((mask, at) => ({ ...runs(mask), label: at + 1 }));
          layLabels(labels, layers, size, { scale: 1, x: 0, y: 0 }, size);
          const at = (index) => [Math.floor(index / height), index % height];
          const hits = layers.map((layer) => Array.from(labels, (_, index) => +holds(layer, at(index), size)));
          return [[...labels], hits];
        }""",
        [masks, width, height],
    )
    assert np.array_equal(np.reshape(labels, (width, height)).T, expected)
    for shape, hit in zip(shapes, hits, strict=True):
        assert np.array_equal(np.reshape(hit, (width, height)).T, shape)
