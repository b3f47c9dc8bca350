"""Accessibility of the page: keyboard, names for screen readers, contrast in both themes, touch."""

import json

import numpy as np
import pytest
from playwright.sync_api import Browser
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.fakes import RADII, disc_mask, picture
from tests.page.conftest import PageServer
from tests.page.visitor import HEIGHT, WIDTH, Visitor

TRUCK = ("truck.png", picture(WIDTH, HEIGHT, shade=90))

NAMELESS = """() => [...document.querySelectorAll("button, input, a, [tabindex], [role], nav, aside, dialog")]
  .filter((node) => {
    const by = node.getAttribute("aria-labelledby");
    const text = node.getAttribute("aria-label") || (by ? document.getElementById(by)?.textContent : "") ||
      [...(node.labels ?? [])].map((label) => label.textContent).join("") || node.textContent;
    const live = ["alert", "status"].includes(node.getAttribute("role")); // empty until there is something to say
    return !live && node.type !== "file" && !text.trim();
  })
  .map((node) => node.outerHTML.slice(0, 120))"""

CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => channels(colour).slice(0, 3)
    .map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return channels(colour)[3] === 0 && node.parentElement ? ground(node.parentElement) : colour;
  };
  return [...document.querySelectorAll("button:enabled, a, h1, h2, p, label, dt, dd, input, pre")]
    .filter((node) => node.checkVisibility() && node.textContent.trim())
    .map((node) => {
      const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
      return [node.textContent.trim().slice(0, 30), (a + 0.05) / (b + 0.05)];
    });
}"""


ROOM = """() => {
  const box = (selector) => document.querySelector(selector).getBoundingClientRect();
  document.getElementById("model").textContent = "sam2.1_hiera_base_plus";
  document.getElementById("key-button").hidden = false;
  const [first, last] = ["first", "last"].map((place) => box(`#welcome :${place}-child`));
  const within = document.querySelector("header").scrollWidth <= innerWidth;
  return [within, box(".tools").bottom <= first.top, last.bottom <= box("#hint").top];
}"""
"""Whether the header has room in the window, and the welcome between the tools and the hint."""
WITHIN = """() => ["alert", "search"].map((id) => {
  const part = document.getElementById(id), { hidden } = part;
  part.hidden = false;
  const fits = part.scrollWidth <= part.clientWidth;
  part.hidden = hidden;
  return fits;
})"""
"""Whether a long message, and the progress of a search, stay within their boxes."""


def test_all_of_it_by_keyboard(visitor: Visitor, server: PageServer) -> None:
    visitor.choose(lambda: visitor.press("o"), *TRUCK)
    for _ in range(30):
        visitor.press("Tab")
        if visitor.page.evaluate("document.activeElement.id") == "stage":
            break
    visitor.press("ArrowRight", "ArrowLeft", "Enter")
    visitor.until_seen(disc_mask(300, 200, RADII[2], height=HEIGHT, width=WIDTH))
    assert server.segmenter.decoded[0][0].points == ((300, 200),)
    visitor.until(lambda: "3 candidates. object 1:" in visitor.find("#said").inner_text())
    visitor.press("Shift+ArrowDown", "Shift+Enter")
    visitor.until(lambda: len(server.prompts()) == 2)
    assert server.segmenter.decoded[1][0].points == ((300, 200), (300, 201))
    assert server.prompts()[1] == ((1, 0), True)
    visitor.until_seen(disc_mask(300, 200, RADII[1], height=HEIGHT, width=WIDTH))
    visitor.press("a", "b", *["ArrowRight"] * 8, *["ArrowDown"] * 8, "b")
    visitor.until(lambda: len(server.prompts()) == 3)
    box = server.segmenter.decoded[2][0].box
    assert box is not None
    assert box[0] == pytest.approx(300, abs=1)
    assert box[2] > box[0] + 20
    visitor.until(lambda: visitor.find("#objects .figure").nth(1).inner_text() == "0.75")
    _, path = visitor.download(lambda: visitor.press("e"))
    assert len(COCO(str(path)).getAnnIds()) == 2


def test_every_key_is_in_the_help(visitor: Visitor) -> None:
    visitor.press("?")
    visitor.find("#help-panel").wait_for()
    assert visitor.find("#help-rows div").count() > 25
    visitor.press("z")  # other keys do nothing while the panel is open
    visitor.press("Escape")
    visitor.find("#help-panel").wait_for(state="hidden")


def test_everything_has_a_name_and_a_place(visitor: Visitor) -> None:
    visitor.add(TRUCK)
    visitor.click(200, 150)
    visitor.until_seen(disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH))
    assert visitor.page.evaluate(NAMELESS) == []
    assert visitor.page.evaluate("document.documentElement.lang") == "en"
    for landmark in ("header", "main", "nav", "aside"):
        assert visitor.find(landmark).count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(visitor: Visitor, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5."""
    visitor.page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    visitor.find("[data-command=theme]").click()  # the opposite of the system's theme
    visitor.add(TRUCK)
    visitor.click(200, 150)
    visitor.until_seen(disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH))
    contrasts = visitor.page.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert [entry for entry in contrasts if entry[1] < 4.5] == []
    visitor.page.reload()
    assert visitor.find("html").get_attribute("data-theme") == scheme


def test_fingers_tap_hold_and_pinch(browser: Browser, server: PageServer) -> None:
    with browser.new_context(viewport={"width": 820, "height": 1000}, has_touch=True) as context:
        visitor = Visitor(context, server.url)
        visitor.add(TRUCK)
        visitor.page.touchscreen.tap(*visitor.place(200.5, 150.5))
        visitor.until_seen(disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH))
        fingers = context.new_cdp_session(visitor.page)

        def touch(kind: str, *places: tuple[float, float]) -> None:
            points = [{"x": x, "y": y, "id": at} for at, (x, y) in enumerate(places)]
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", visitor.place(300.5, 150.5))
        visitor.until(lambda: len(server.prompts()) == 2)
        touch("touchEnd")
        assert server.prompts()[1] == ((1, 0), True)
        (x, y), zoom = visitor.place(300, 200), visitor.find("#zoom").inner_text()
        touch("touchStart", (x - 40, y), (x + 40, y))
        touch("touchMove", (x - 90, y), (x + 90, y))
        touch("touchEnd")
        visitor.until(lambda: visitor.find("#zoom").inner_text() != zoom)
        assert len(server.prompts()) == 2, "two fingers must not click"
        assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert visitor.faults == []


@pytest.mark.parametrize("size", [(320, 640), (900, 500)])
def test_nothing_covers_another_on_small_screens(
    browser: Browser, server: PageServer, size: tuple[int, int]
) -> None:
    with browser.new_context(viewport={"width": size[0], "height": size[1]}) as context:
        visitor = Visitor(context, server.url)
        assert visitor.page.evaluate(ROOM) == [True, True, True]
        visitor.add(TRUCK, (f"{'long' * 50}.png", b"no picture"))
        visitor.press("PageDown")
        visitor.until(lambda: "longlong" in visitor.alert())
        assert visitor.page.evaluate(WITHIN) == [True, True]
        boxes = [visitor.find(part).bounding_box() for part in ("nav", ".tools", "#canvas", "#hint", "aside")]
        ends = [box["y"] + box["height"] for box in boxes if box]
        assert all(box and box["y"] >= end - 1 for box, end in zip(boxes[1:], ends, strict=False))
        assert [
            box["height"] >= least for box, least in zip(boxes, (80, 30, 240, 14, 150), strict=True) if box
        ] == [True] * 5
        visitor.find("[data-save=coco]").scroll_into_view_if_needed()
        assert visitor.find("[data-save=coco]").is_visible()


def test_masks_are_decoded_as_pycocotools_does(visitor: Visitor) -> None:
    """Masks of different shapes, decoded with the client's rle.js."""
    random = np.random.default_rng(1)
    shapes = [random.random((37, 53)) < share for share in (0, 0.02, 0.5, 1)]
    shapes.append(disc_mask(20, 20, 9, height=400, width=300))
    encoded = [coco_mask.encode(np.asfortranarray(shape)) for shape in shapes]
    inputs = [
        {"counts": rle["counts"].decode(), "height": rle["size"][0], "width": rle["size"][1]}
        for rle in encoded
    ]
    script = """async (inputs) => {
      const { decodeRuns, toBitmap } = await import("./client/rle.js");
      const bitmap = ({ counts, ...size }) => toBitmap(decodeRuns(counts, size.width * size.height), size);
      return JSON.stringify(inputs.map((input) => [...bitmap(input)]));
    }"""
    for shape, decoded in zip(shapes, json.loads(visitor.page.evaluate(script, inputs)), strict=True):
        assert np.array_equal(np.reshape(decoded, shape.shape), shape)


def test_keys_are_commands_with_caps_lock_and_after_the_choice_of_all_pictures(visitor: Visitor) -> None:
    """The one made Undo a Redo and all else nothing, the other took every key."""
    visitor.add(TRUCK)
    visitor.click(200, 150)
    visitor.find("#objects li").wait_for()
    visitor.find("#all-pictures").click()
    locked = (
        "([key, code]) => document.activeElement.dispatchEvent("
        "new KeyboardEvent('keydown', { key, code, bubbles: true }))"
    )
    cyrillic = (("я", "KeyZ", 0), ("Н", "KeyY", 1))
    for key, code, count in (("z", "", 0), ("y", "", 1), ("Z", "", 0), ("Y", "", 1), *cyrillic):
        visitor.page.evaluate(locked, [key, code])
        visitor.until(lambda count=count: visitor.find("#objects li").count() == count)


@pytest.mark.parametrize("button", ["#objects button[title=Delete]", "#thumbnails .remove"])
def test_the_focus_has_a_place_after_a_deletion(visitor: Visitor, button: str) -> None:
    visitor.add(TRUCK, ("cat.png", picture(WIDTH, HEIGHT, shade=200)))
    visitor.click(200, 150)
    visitor.find("#objects li").wait_for()
    visitor.find(button).first.focus()
    visitor.press("Enter")
    visitor.until(lambda: visitor.find("#objects li").count() == 0)
    visitor.until(lambda: visitor.page.evaluate("document.activeElement.id") == "stage")


def test_what_is_chosen_is_seen_where_the_system_chooses_the_colours(
    browser: Browser, server: PageServer
) -> None:
    """There, borders, backgrounds and shadows have one colour each, and all swatches were white."""
    with browser.new_context(viewport={"width": 1000, "height": 640}, forced_colors="active") as context:
        visitor = Visitor(context, server.url)
        visitor.add(TRUCK)
        visitor.click(200, 150)
        visitor.find("#candidates button").first.wait_for()
        looks = """(selector) => [...document.querySelectorAll(selector)].map((node) => {
          const { outlineStyle, backgroundColor } = getComputedStyle(node);
          return [outlineStyle, backgroundColor];
        })"""
        outlines = [style for style, _ in visitor.page.evaluate(looks, "#candidates button, [data-label]")]
        assert sorted(outlines) == ["none", "none", "none", "solid", "solid"]
        assert visitor.page.evaluate(looks, ".swatch")[0][1] == "rgb(47, 129, 247)"
