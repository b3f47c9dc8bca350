"""The service turns pictures as the browser of the page does: else each click lands elsewhere."""

import base64
import json
from typing import Any

from playwright.sync_api import Browser

from app.codecs.images import decode_image
from tests.oriented_files import OrientedFile, oriented_files, upright

_QUARTERS = """async (files) => {
  const seen = {};
  for (const [name, [type, text]] of Object.entries(files)) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes], { type }));
    const { width, height } = bitmap;
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.drawImage(bitmap, 0, 0);
    const places = [[1, 1], [3, 1], [1, 3], [3, 3]];
    const colours = places.map(([x, y]) => [...context.getImageData(x * width / 4, y * height / 4, 1, 1).data]);
    seen[name] = [width, height, ...colours.map(([red, green, blue]) =>
      red > 128 ? (blue > 128 ? 4 : 1) : green > 128 ? 2 : 3)];
  }
  return seen;
}"""


def seen_by_the_service(file: OrientedFile) -> list[int]:
    pixels = decode_image(file.data, max_pixels=10**6) > 128
    height, width = pixels.shape[:2]
    quarters = [pixels[y * height // 4, x * width // 4] for y in (1, 3) for x in (1, 3)]
    return [
        width,
        height,
        *((4 if blue else 1) if red else 2 if green else 3 for red, green, blue in quarters),
    ]


def test_each_file_is_turned_as_in_the_browser(browser: Browser) -> None:
    files = oriented_files()
    sent = {name: [file.media_type, base64.b64encode(file.data).decode()] for name, file in files.items()}
    page = browser.new_page()
    seen: dict[str, Any] = page.evaluate(_QUARTERS, sent)
    page.close()
    expected = {name: upright(file.browser) for name, file in files.items()}
    assert json.dumps(seen) == json.dumps(expected)  # the table is what this browser does
    assert {name: seen_by_the_service(file) for name, file in files.items()} == expected
